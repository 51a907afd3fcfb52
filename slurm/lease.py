"""Who works on which run, on a shared folder: at most one at a time, and whoever is dead is taken over.

Nothing here needs a lock, or clocks that agree. A holder is a file that its process rewrites at every beat. A lease is a
hard link to it, `<run>.<n>`: to make a link is atomic on NFS, too, and the highest n counts. A holder has ended when it
says so (`<holder>.ended`), or when one who waits has seen it stand still for MISSED beats of its own clock, and says it.
"""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.files import write_text

BEAT_SECONDS = 15.0  # ours; times MISSED it is longer than NFS clients trust what they remember of a folder (60 s)
MISSED = 8  # beats; ours
DEAD = "dead"


@dataclass(frozen=True)
class Found:
    """The newest lease of a run."""

    run: str
    number: int
    path: Path

    def read(self) -> tuple[str, dict[str, Any]]:
        """The whole text, which differs after every beat, and who the holder is; ("", {}) where it is gone."""
        try:
            text = self.path.read_text()
            return text, json.loads(text.split("\n")[1])
        except FileNotFoundError:
            return "", {}
        except (IndexError, ValueError):
            raise UserError(f"{self.path} is damaged; remove it if nothing works on {self.run}") from None


class Holder:
    """This process as a holder of leases in folder; beat() at least every beat_seconds, end() at the end.

    log: where it writes to, for those who look.
    """

    def __init__(self, folder: Path, beat_seconds: float = BEAT_SECONDS, log: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.beat_seconds = folder, beat_seconds
        self.name = f"holder-{secrets.token_hex(8)}"
        self.beats = 0
        self.watched: dict[str, tuple[str, float]] = {}  # holder -> its text and when it was first seen, by our clock
        self.held: set[str] = set()
        self.path = folder / self.name
        about = {"name": self.name, "job": job(), "node": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
                 "pid": os.getpid(), "place": place(), "born": born(os.getpid()), "beat_seconds": beat_seconds, "log": log}
        self.handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(self.handle, f"{0:012d}\n{json.dumps(about)}\n".encode())
        os.fsync(self.handle)

    def beat(self) -> bool:
        """Show that this process lives; False when another has ended it: its leases are lost."""
        self.beats += 1
        os.pwrite(self.handle, b"%012d" % self.beats, 0)
        os.fsync(self.handle)
        return not ended(self.folder, self.name)

    def take(self, runs: Iterable[str]) -> dict[str, str]:
        """Take what is free; gives run -> who has it, for the others. Repeated at every beat it finds the dead out."""
        busy = {}
        there = newest(self.folder, runs := [run for run in runs if run not in self.held])
        for run in runs:
            found = there.get(run)
            if found:
                text, who = found.read()
                if who and not ended(self.folder, who["name"]) and not self.dead(text, who):
                    busy[run] = f"pid {who['pid']} on {who['node']}" + (f", job {who['job']}" if who["job"] else "")
                    continue
            target = self.folder / f"{run}.{found.number + 1 if found else 1}"
            with contextlib.suppress(FileExistsError):
                os.link(self.path, target)
            try:  # not what link() said: over NFS a repeated request finds its own link there
                ours = os.path.samefile(self.path, target)
            except FileNotFoundError:  # another took it, was done, and forgot it
                ours = False
            if ours:
                self.held.add(run)
            else:
                busy[run] = "another that was faster"
        return busy

    def dead(self, text: str, who: dict[str, Any]) -> bool:
        """Whether the holder stood still for as long as we watched, or is no process of this machine; ends it then."""
        before, since = self.watched.get(who["name"], ("", 0.0))
        if text != before:
            self.watched[who["name"]] = text, time.monotonic()
        still = text == before and time.monotonic() - since > MISSED * who["beat_seconds"]
        if still or gone(who):
            end(self.folder, who["name"], DEAD)
            return True
        return False

    def forget(self, runs: Iterable[str]) -> None:
        """Remove the leases of finished runs: their records say all that is needed."""
        for run, found in newest(self.folder, self.held.intersection(runs)).items():
            for number in range(1, found.number + 1):
                (self.folder / f"{run}.{number}").unlink(missing_ok=True)
            self.held.discard(run)

    def end(self) -> None:
        """Give up what is held."""
        os.close(self.handle)
        if self.held:
            end(self.folder, self.name, "gave up")
        self.path.unlink(missing_ok=True)


def newest(folder: Path, runs: Iterable[str] | None = None) -> dict[str, Found]:
    """run -> its newest lease, for these runs or all that have one."""
    wanted = set(runs) if runs is not None else None
    out: dict[str, Found] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        run, _, number = name.rpartition(".")
        if number.isdecimal() and (wanted is None or run in wanted) and int(number) > getattr(out.get(run), "number", 0):
            out[run] = Found(run, int(number), folder / name)
    return out


def ended(folder: Path, holder: str) -> bool:
    return (folder / f"{holder}.ended").exists()


def end(folder: Path, holder: str, how: str) -> None:
    """Say that the holder has ended: it gave up, or it is dead."""
    write_text(folder / f"{holder}.ended", how)


def died(folder: Path, holder: str) -> bool:
    """Whether another found the holder dead."""
    path = folder / f"{holder}.ended"
    return path.is_file() and path.read_text() == DEAD


def job() -> str | None:
    """This process's Slurm job as squeue names it, 12_3 of an array, or None."""
    env = os.environ
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID")


def place() -> str:
    """What tells machines, and containers on one machine, apart, whatever they are called."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.stat('/proc/self/ns/pid').st_ino}"


def born(pid: int) -> int:
    """When a process of this machine started, in ticks since its boot; 0 where there is none, or a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if state == "Z" else int(fields[18])


def gone(who: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    return who["place"] == place() and born(who["pid"]) != who["born"]
