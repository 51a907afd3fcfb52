"""Where a sweep runs: a cluster file -> what sbatch is asked for, per kind of run."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, unknown
from bench.core.files import ROOT
from bench.core.yaml import read_yaml
from bench.encoders import vit
from bench.evaluation.protocols import list_protocols
from bench.runs.config import Config, EvaluationConfig
from slurm.lease import BEAT_SECONDS

FOLDER = ROOT / "slurm" / "clusters"
TOP: dict[str, type] = {"work": str, "results": str, "setup": list, "beat_seconds": float, "runs": dict}
ASKED: dict[str, type] = {
    "partition": str, "account": str, "qos": str, "constraint": str, "time": str, "memory": str,
    "nodes": int, "processes": int, "gpus": int, "cpus": int, "throttle": int, "pack": int}
NEEDED = ("partition", "time", "memory", "cpus")
DEFAULTS = {"nodes": 1, "gpus": 0, "throttle": 0, "pack": 1}
TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
WARN_SECONDS = 120  # before the time limit a job is told to save, Slurm may be a minute late; ours


@dataclass(frozen=True)
class Asked:
    """What a kind of run asks for; nodes are whole jobs', the rest is per node, cpus per process."""

    partition: str
    time: str
    memory: str
    cpus: int
    nodes: int
    processes: int
    gpus: int
    throttle: int
    pack: int
    account: str = ""
    qos: str = ""
    constraint: str = ""

    @property
    def seconds(self) -> int:
        days, hours, minutes, seconds = (int(text or 0) for text in TIME.fullmatch(self.time).groups())  # type: ignore
        return 86400 * days + 3600 * hours + 60 * minutes + seconds

    def options(self) -> list[str]:
        """sbatch's options."""
        warn = min(WARN_SECONDS, self.seconds // 2)
        out = [f"--partition={self.partition}", f"--time={self.time}", f"--mem={self.memory}", f"--nodes={self.nodes}",
               f"--ntasks-per-node={self.processes}", f"--cpus-per-task={self.cpus}", f"--signal=B:USR2@{warn}"]
        out += [f"--gpus-per-node={self.gpus}"] if self.gpus else []
        return out + [f"--{key}={getattr(self, key)}" for key in ("account", "qos", "constraint") if getattr(self, key)]


@dataclass(frozen=True)
class Cluster:
    name: str
    work: Path | None = None
    results: Path | None = None
    setup: list[str] = field(default_factory=list)  # lines of bash before the worker starts
    beat_seconds: float = BEAT_SECONDS
    asked: dict[str, Asked] = field(default_factory=dict)

    def kind(self, run: Config) -> str:
        """The kind that the file describes this run's most closely by: pretrain-<size> or pretrain, and so on."""
        if isinstance(run, EvaluationConfig):
            first, then = "evaluate", run.evaluation.name
        else:
            first, then = "pretrain", run.encoder.size
        return f"{first}-{then}" if f"{first}-{then}" in self.asked else first


def kinds() -> list[str]:
    return ["pretrain", *(f"pretrain-{size}" for size in vit.SIZES),
            "evaluate", *(f"evaluate-{name}" for name in list_protocols())]


def find(name: str) -> Path:
    """The file of a cluster: a path, or the name of one of slurm/clusters."""
    if name.endswith(".yaml"):
        return Path(name)
    known = [path.stem for path in FOLDER.glob("*.yaml")]
    if name not in known:
        raise unknown("cluster", name, known)
    return FOLDER / f"{name}.yaml"


def read(path: Path) -> Cluster:
    """The cluster that the file describes; UserError naming key and line where it is none."""
    content = read_yaml(path)
    given = checked(content, TOP, f"{path}:")
    runs = given.pop("runs", None)
    if not runs:
        raise UserError(f"{path} has no 'runs': what to ask for, for all runs and per kind ({', '.join(kinds())})")
    if not all(isinstance(line, str) for line in given.get("setup", [])):
        raise UserError(f"{path}: setup must be a list of lines of bash")
    sections = {}
    for kind, section in runs.items():
        if kind not in ("all", *kinds()):
            raise unknown(f"kind in {path}, runs:", kind, ["all", *kinds()])
        if not isinstance(section, dict):
            raise UserError(f"{path}: runs.{kind} must be a mapping, got {section!r}")
        sections[kind] = checked(section, ASKED, f"{path}, runs.{kind}:")
    asked = {}
    for kind in {"pretrain", "evaluate", *sections} - {"all"}:
        merged = dict(DEFAULTS)
        for name in ("all", kind.partition("-")[0], kind):
            merged |= sections.get(name, {})
        asked[kind] = asked_of(merged, f"{path}: runs.{kind}")
    if given.get("beat_seconds", BEAT_SECONDS) <= 0:
        raise UserError(f"{path}: beat_seconds must be positive")
    given |= {key: (path.parent / given[key]).absolute() for key in ("work", "results") if key in given}
    return Cluster(path.stem, **given, asked=asked)


def checked(section: dict[Any, Any], schema: dict[str, type], where: str) -> dict[str, Any]:
    """The section, its keys known and its values of the right type."""
    out = {}
    for key, value in section.items():
        if key not in schema:
            raise unknown(f"key in {where}", key, schema)
        if key == "time" and isinstance(value, int):  # YAML reads 1:00:00 as 3600
            raise UserError(f'{where} time must be in quotes, e.g. "{value // 3600:02d}:{value // 60 % 60:02d}:00"')
        value = float(value) if schema[key] is float and type(value) is int else value
        if type(value) is not schema[key]:
            raise UserError(f"{where} {key!r} must be a {schema[key].__name__}, got {value!r}")
        out[key] = value
    return out


def asked_of(merged: dict[str, Any], where: str) -> Asked:
    for key in NEEDED:
        if not merged.get(key):
            raise UserError(f"{where} has no {key!r}; give it there or for all")
    merged.setdefault("processes", max(1, merged["gpus"]))
    for key in ("nodes", "processes", "cpus", "pack"):
        if merged[key] < 1:
            raise UserError(f"{where}.{key} must be 1 or more, got {merged[key]}")
    for key in ("gpus", "throttle"):
        if merged[key] < 0:
            raise UserError(f"{where}.{key} must be 0 or more, got {merged[key]}")
    if not TIME.fullmatch(merged["time"]):
        raise UserError(f'{where}.time must be like "12:00:00" or "2-00:00:00", got {merged["time"]!r}')
    asked = Asked(**merged)
    if asked.seconds < 60:
        raise UserError(f"{where}.time must be a minute or more, got {asked.time!r}")
    if "runs.pretrain" in where and asked.pack > 1:
        raise UserError(f"{where}.pack must be 1: a job's evaluations wait for its pre-training alone")
    if "runs.evaluate" in where and asked.nodes * asked.processes > 1:
        raise UserError(f"{where}: an evaluation is one process; set nodes: 1 and processes: 1")
    return asked
