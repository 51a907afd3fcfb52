"""The folder work/slurm, which the jobs of sweeps and the `ecgssl sweep` commands share."""

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import read_json, write_text
from bench.core.models import Model, Positive, PositiveFloat, Text, validate
from bench.runs.config import Config, parse_config, run_id

SAME = 3  # failures in a row for one reason that park a run
LOG_BYTES = 1 << 14  # how much of the end of a log is read
TOKEN = re.compile(r"[0-9a-f]+")

Unit = list[str]  # run_ids of one call: a pre-training, or evaluations that one call of `evaluate` takes


class Submission(Model):
    """The array that one call of sbatch submits, and the settings of its jobs."""

    sweep: Text
    cluster: Text
    kind: Text
    after: Text  # token of a submission; each task waits for its task of the same index; "" for none
    work: Text
    results: Text
    code: Text  # name of the copy of the code
    nodes: Positive
    processes: Positive
    cpus: Positive
    beat_seconds: PositiveFloat
    save_minutes: PositiveFloat
    tasks: dict[int, list[Unit]]  # index -> its units


@dataclass(frozen=True)
class Failure:
    """One failure of a run."""

    reason: str
    job: str | None = None
    node: str | None = None
    when: str | None = None


@dataclass(frozen=True)
class SharedFolder:
    """The folder work/slurm: leases/, failures/ (a file per run), submissions/ (a folder per sbatch call), code/ (copies)."""

    work: Path
    results: Path

    @property
    def folder(self) -> Path:
        return self.work / "slurm"

    @property
    def leases(self) -> Path:
        return self.folder / "leases"

    @property
    def failures(self) -> Path:
        return self.folder / "failures"

    @property
    def submissions(self) -> Path:
        return self.folder / "submissions"

    def read_tasks(self, token: str) -> dict[int, list[Unit]]:
        """index -> units of a submission; {} if the submission belongs to another work folder."""
        folder = self.submissions / token
        if not TOKEN.fullmatch(token) or not (folder / "submission.json").is_file():
            return {}
        return read_submission(folder).tasks

    def log_path(self, token: str, index: int) -> Path:
        """The log of a task of a submission; all attempts append to it."""
        return self.submissions / token / "logs" / f"{index}.log"

    def newest_logs(self) -> dict[str, Path]:
        """run -> its newest log among those of all submissions."""
        newest: dict[str, tuple[float, Path]] = {}
        for folder in self.submissions.glob("*"):
            for index, units in self.read_tasks(folder.name).items():
                path = self.log_path(folder.name, index)
                if path.is_file():
                    written = path.stat().st_mtime
                    for run in itertools.chain(*units):
                        newest[run] = max(newest.get(run, (0.0, path)), (written, path))
        return {run: path for run, (_, path) in newest.items()}

    def failures_of(self, run: str) -> list[Failure]:
        """The run's failures, oldest first."""
        path = self.failures / f"{run}.jsonl"
        return [Failure(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []

    def note_failure(self, run: str, failure: Failure) -> None:
        """Append a failure to the run's file."""
        self.failures.mkdir(parents=True, exist_ok=True)
        line = asdict(failure) | {"reason": " ".join(failure.reason.split())}
        with (self.failures / f"{run}.jsonl").open("a") as f:
            f.write(json.dumps(line) + "\n")


def write_submission(folder: Path, submission: Submission, tasks: Mapping[int, Sequence[Sequence[Config]]]) -> None:
    """Write tasks.jsonl, the configs of every task, and then submission.json. If that exists, the submission is complete."""
    lines = (json.dumps({"index": index, "units": [[config.to_json() for config in unit] for unit in units]}) + "\n"
             for index, units in tasks.items())
    write_text(folder / "tasks.jsonl", "".join(lines))
    write_text(folder / "submission.json", json.dumps(submission.to_json()))


def read_submission(folder: Path) -> Submission:
    """The submission in folder; UserError where it is damaged."""
    path = folder / "submission.json"
    return validate(Submission, read_json(path, "submission"), lambda keys: str(path))


def read_units(folder: Path, index: int) -> list[dict[str, Config]]:
    """The units of a task: run_id -> config."""
    with (folder / "tasks.jsonl").open() as f:
        for line in f:
            task = json.loads(line)
            if task["index"] == index:
                return [{run_id(config): config for config in map(parse_config, unit)} for unit in task["units"]]
    raise UserError(f"{folder / 'tasks.jsonl'} has no task {index}")


def is_parked(failures: list[Failure]) -> bool:
    """Whether the last SAME failures have the same reason; numbers in the reason do not count."""
    reasons = {re.sub(r"\d+", "0", failure.reason) for failure in failures[-SAME:]}
    return len(failures) >= SAME and len(reasons) == 1


def read_tail(path: Path, size: int = LOG_BYTES) -> str:
    """The last `size` bytes of a file as text; "" if there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - size))
        return f.read().decode(errors="replace")


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line for line in read_tail(log).splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"


def last_words(log: Path) -> str:
    """The message of Slurm at the end of a log, e.g. that the job's memory was too small; "" if there is none.

    If there are several lines, it is the first one that does not report the end itself (***), because later lines come in
    any order.
    """
    lines = [""]
    for line in read_tail(log).splitlines():
        _, slurm, words = line.partition("slurmstepd")
        lines = [*lines, words.partition(": ")[2].removeprefix("error: ")] if slurm and line.startswith(slurm) else [""]
    return next((line for line in lines if line and not line.startswith("*** ")), lines[-1])


def list_stems(folder: Path, suffix: str) -> set[str]:
    """The names of the files in folder that end with suffix, without the suffix. It lists the folder once, for all runs."""
    names: Iterable[str] = os.listdir(folder) if folder.is_dir() else ()
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}


def read_server_time(folder: Path) -> float:
    """The current time of the machine that sets the times of files in folder, so that no node's clock matters."""
    probe = folder / f".probe-{os.getpid()}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    return now
