"""The part of a work folder that the jobs of sweeps and the commands about them share."""

import itertools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

SAME = 3  # failures in a row for one reason that park a run


@dataclass(frozen=True)
class Shared:
    """leases/, failures/ (a file per run), submissions/ (a folder per sbatch), code/ (copies), all below work/slurm."""

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

    def tasks(self, token: str) -> dict[int, list[list[str]]]:
        """index -> units of runs of a submission; none where it was made in another work folder."""
        path = self.submissions / token / "submission.json"
        if not re.fullmatch(r"[0-9a-f]+", token) or not path.is_file():
            return {}
        return {int(index): units for index, units in json.loads(path.read_text())["tasks"].items()}

    def log(self, token: str, index: int) -> Path:
        """Where a task of a submission writes to, in all its attempts."""
        return self.submissions / token / "logs" / f"{index}.log"

    def logs(self) -> dict[str, Path]:
        """run -> its newest log, whichever submission that belongs to."""
        found: dict[str, tuple[float, Path]] = {}
        for folder in self.submissions.glob("*"):
            for index, units in self.tasks(folder.name).items():
                path = self.log(folder.name, index)
                if path.is_file():
                    when = path.stat().st_mtime
                    for run in itertools.chain(*units):
                        found[run] = max(found.get(run, (0.0, path)), (when, path))
        return {run: path for run, (_, path) in found.items()}

    def failed(self, run: str) -> list[dict[str, str]]:
        """What made the run fail, oldest first: reason, job, node, when."""
        path = self.failures / f"{run}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def note(self, run: str, reason: str, **about: str | None) -> None:
        """Note why the run failed."""
        self.failures.mkdir(parents=True, exist_ok=True)
        with (self.failures / f"{run}.jsonl").open("a") as f:
            f.write(json.dumps({"reason": " ".join(reason.split()), **about}) + "\n")


def parked(notes: list[dict[str, str]]) -> bool:
    """Whether the last SAME failures have one reason, numbers apart."""
    reasons = {re.sub(r"\d+", "0", note["reason"]) for note in notes[-SAME:]}
    return len(notes) >= SAME and len(reasons) == 1


def tail(path: Path, size: int) -> str:
    """The last bytes of a file as text; "" where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - size))
        return f.read().decode(errors="replace")


def last_line(log: Path) -> str:
    lines = [line for line in tail(log, 1 << 14).splitlines() if line.strip()]
    return lines[-1] if lines else "it left no word"


def last_words(log: Path) -> str:
    """What Slurm said at the end of a log, e.g. that the job's memory was too small; "" for nothing.

    The first line of it that is not of the end itself (***): those after it come in any order.
    """
    said = [""]
    for line in tail(log, 1 << 14).splitlines():
        _, slurm, words = line.partition("slurmstepd")
        said = [*said, words.partition(": ")[2].removeprefix("error: ")] if slurm and line.startswith(slurm) else [""]
    return next((line for line in said if line and not line.startswith("*** ")), said[-1])
