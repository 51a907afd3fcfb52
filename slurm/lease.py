"""Leases: at most one process works on a run at a time, and other processes take over the runs of a dead process.

All this works on a shared folder without locks and without synchronised clocks. A holder is a file that its process rewrites
at every beat. A lease is a hard link to that file, named `<run>.<n>`; the highest n counts. Creating a link is atomic, on NFS
too. A holder has ended when `<holder>.ended` exists. The holder's process writes that file, or another process does: one that
wants the run and has seen no beat of the holder for MISSED beats of its own clock. `<holder>.progress` holds the progress.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import write_text
from bench.core.progress import Progress, read_progress

BEAT_SECONDS = 15.0  # MISSED beats must last longer than NFS clients cache a folder (60 s)
MISSED = 8
DEAD = "dead"


@dataclass(frozen=True)
class HolderInfo:
    """The process that a holder stands for."""

    name: str
    job: str | None  # its Slurm job, as squeue names it
    node: str
    pid: int
    machine: str
    start_ticks: int
    beat_seconds: float
    log: str  # path of its log below the folder of submissions; "" if it has none

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.node}" + (f", job {self.job}" if self.job else "")

    def is_gone(self) -> bool:
        """Whether the holder was a process of this machine that no longer exists."""
        return self.machine == machine_id() and start_ticks(self.pid) != self.start_ticks


@dataclass(frozen=True)
class Lease:
    """The newest lease of a run."""

    run: str
    number: int
    path: Path

    def read(self) -> tuple[str, HolderInfo] | None:
        """(the whole text, which changes at every beat; the holder), or None if the lease has been removed."""
        try:
            text = self.path.read_text()
            return text, HolderInfo(**json.loads(text.split("\n")[1]))
        except FileNotFoundError:
            return None
        except (IndexError, ValueError, TypeError):
            raise UserError(f"{self.path} is damaged; remove it if nothing works on {self.run}") from None


class Holder:
    """This process as a holder of leases. Call beat() at least every beat_seconds, and end() at the end.

    log: see HolderInfo.
    """

    def __init__(self, folder: Path, beat_seconds: float = BEAT_SECONDS, log: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.beat_seconds = folder, beat_seconds
        self.beats = 0
        self.runs: set[str] = set()  # the runs whose lease this process holds
        self.seen: dict[str, tuple[str, float]] = {}  # other holder -> its text, and when this process first saw that text
        node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        self.info = HolderInfo(f"holder-{secrets.token_hex(8)}", current_job(), node, os.getpid(), machine_id(),
                               start_ticks(os.getpid()), beat_seconds, log)
        self.path = folder / self.info.name
        self.handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(self.handle, f"{0:012d}\n{json.dumps(dataclasses.asdict(self.info))}\n".encode())
        os.fsync(self.handle)

    @property
    def progress(self) -> Path:
        """The file with the progress of the holder's work."""
        return progress_path(self.folder, self.info.name)

    def beat(self) -> bool:
        """Show that this process lives. False if another process has declared this holder dead: its leases are lost."""
        self.beats += 1
        os.pwrite(self.handle, b"%012d" % self.beats, 0)
        os.fsync(self.handle)
        return not has_ended(self.folder, self.info.name)

    def take(self, runs: Iterable[str]) -> dict[str, str]:
        """Take the free leases of these runs. Returns run -> holder for the others. Call it at every beat to find the dead."""
        busy = {}
        runs = [run for run in runs if run not in self.runs]
        leases = newest_leases(self.folder, runs)
        for run in runs:
            lease = leases.get(run)
            content = lease.read() if lease else None
            if content and not has_ended(self.folder, content[1].name) and not self.declare_dead(*content):
                busy[run] = str(content[1])
            elif self.link(self.folder / f"{run}.{lease.number + 1 if lease else 1}"):
                self.runs.add(run)
            else:
                busy[run] = "another process that was faster"
        return busy

    def link(self, target: Path) -> bool:
        """Try to create the lease at target. Returns whether this process holds it."""
        with contextlib.suppress(FileExistsError):
            os.link(self.path, target)
        try:  # an error of link() proves nothing: over NFS a repeated request may collide with its own first link
            return os.path.samefile(self.path, target)
        except FileNotFoundError:  # another process took it, finished, and removed it
            return False

    def declare_dead(self, text: str, info: HolderInfo) -> bool:
        """Whether another holder is dead: no beat came for MISSED beats, or its process is gone. If so, mark it as ended."""
        last, since = self.seen.get(info.name, ("", 0.0))
        if text != last:
            self.seen[info.name] = text, time.monotonic()
        still = text == last and time.monotonic() - since > MISSED * info.beat_seconds
        if still or info.is_gone():
            mark_ended(self.folder, info.name, DEAD)
            return True
        return False

    def forget(self, runs: Iterable[str]) -> None:
        """Remove this process's leases of these runs, which have results and need no lease any more."""
        for run, lease in newest_leases(self.folder, self.runs.intersection(runs)).items():
            for number in range(1, lease.number + 1):
                (self.folder / f"{run}.{number}").unlink(missing_ok=True)
            self.runs.discard(run)

    def end(self) -> None:
        """Give up all leases."""
        os.close(self.handle)
        if self.runs:
            mark_ended(self.folder, self.info.name, "gave up")
        self.path.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)


def newest_leases(folder: Path, runs: Iterable[str] | None = None) -> dict[str, Lease]:
    """run -> its newest lease, for these runs or for all that have one."""
    wanted = set(runs) if runs is not None else None
    leases: dict[str, Lease] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        run, _, number = name.rpartition(".")
        if number.isdecimal() and (wanted is None or run in wanted) and int(number) > getattr(leases.get(run), "number", 0):
            leases[run] = Lease(run, int(number), folder / name)
    return leases


def progress_path(folder: Path, holder: str) -> Path:
    return folder / f"{holder}.progress"


def holder_progress(folder: Path, holder: str) -> Progress | None:
    """The progress of a holder's work; None if there is no file of it."""
    return read_progress(progress_path(folder, holder))


def has_ended(folder: Path, holder: str) -> bool:
    return (folder / f"{holder}.ended").exists()


def mark_ended(folder: Path, holder: str, how: str) -> None:
    """Note that the holder has ended: it gave up, or it is dead."""
    write_text(folder / f"{holder}.ended", how)


def was_declared_dead(folder: Path, holder: str) -> bool:
    """Whether another process has declared the holder dead."""
    path = folder / f"{holder}.ended"
    return path.is_file() and path.read_text() == DEAD


def current_job() -> str | None:
    """The Slurm job of this process as squeue names it, 12_3 of an array, or None."""
    env = os.environ
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID")


def machine_id() -> str:
    """A text that differs between machines, and between containers on one machine, even if their names are equal."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.stat('/proc/self/ns/pid').st_ino}"


def start_ticks(pid: int) -> int:
    """When a process of this machine started, in ticks since boot; 0 if it does not exist or is a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if state == "Z" else int(fields[18])
