"""Where a sweep runs: a cluster file -> what sbatch is asked for, per kind of run."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from bench.core.errors import UserError, unknown
from bench.core.files import ROOT
from bench.core.models import Model, Natural, Positive, PositiveFloat, Text, rule, validate
from bench.core.yaml import Document, Keys, read_document
from bench.encoders import vit
from bench.evaluation.protocols import list_protocols
from bench.runs.config import Config, EvaluationConfig
from slurm.lease import BEAT_SECONDS

FOLDER = ROOT / "slurm" / "clusters"
TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
SAVE_SECONDS = 120  # before the time limit a job is asked to save; Slurm's signal may be a minute late
ALL = "all"


def _time(value: Any) -> Any:
    if type(value) is int:  # YAML reads 1:00:00 as 3600
        example = f"{value // 3600:02d}:{value // 60 % 60:02d}:00"
        raise PydanticCustomError("rule", 'in quotes, e.g. "{example}"', {"example": example})
    if not isinstance(value, str) or not TIME.fullmatch(value):
        raise PydanticCustomError("rule", 'like "12:00:00" or "2-00:00:00"')
    if seconds_of(value) < 60:
        raise PydanticCustomError("rule", "a minute or more")
    return value


Time = Annotated[str, BeforeValidator(_time)]
Name = Annotated[Text, Field(min_length=1)]


def seconds_of(time: str) -> int:
    """The seconds of a time limit of Slurm, e.g. 2-00:00:00."""
    match = TIME.fullmatch(time)
    assert match
    days, hours, minutes, seconds = (int(text or 0) for text in match.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + seconds


class RequestSection(Model):
    """What the cluster file says of one kind of run; what it leaves out comes from the sections above it."""

    partition: Name | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    time: Time | None = None
    memory: Name | None = None
    nodes: Positive | None = None
    processes: Positive | None = None
    gpus: Natural | None = None
    cpus: Positive | None = None
    throttle: Natural | None = None
    pack: Positive | None = None


class ClusterConfig(Model):
    """A cluster file."""

    work: Text | None = None
    results: Text | None = None
    setup: tuple[Text, ...] = ()
    beat_seconds: PositiveFloat = BEAT_SECONDS
    runs: dict[Text, RequestSection]


class Request(Model):
    """What jobs of one kind ask for. The nodes are the whole job's, cpus are per process, the rest is per node."""

    kind: Text
    partition: Name
    time: Time
    memory: Name
    cpus: Positive
    nodes: Positive = 1
    gpus: Natural = 0
    processes: Positive
    throttle: Natural = 0
    pack: Positive = 1
    account: Text = ""
    qos: Text = ""
    constraint: Text = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind.startswith("pretrain") and self.pack > 1:
            raise rule("pack", "1: the evaluations of a job wait for its own pre-training alone")
        for key in ("nodes", "processes"):
            if self.kind.startswith("evaluate") and getattr(self, key) > 1:
                raise rule(key, "1: an evaluation is one process")
        return self

    def options(self) -> list[str]:
        """The options of sbatch."""
        save_seconds = min(SAVE_SECONDS, seconds_of(self.time) // 2)
        options = [f"--partition={self.partition}", f"--time={self.time}", f"--mem={self.memory}", f"--nodes={self.nodes}",
                   f"--ntasks-per-node={self.processes}", f"--cpus-per-task={self.cpus}", f"--signal=B:USR2@{save_seconds}"]
        options += [f"--gpus-per-node={self.gpus}"] if self.gpus else []
        return options + [f"--{key}={getattr(self, key)}" for key in ("account", "qos", "constraint") if getattr(self, key)]


@dataclass(frozen=True)
class Cluster:
    """A cluster file that has been read."""

    name: str
    work: Path | None = None
    results: Path | None = None
    setup: tuple[str, ...] = ()  # lines of bash before the worker starts
    beat_seconds: float = BEAT_SECONDS
    requests: dict[str, Request] = field(default_factory=dict)  # by kind of run

    def kind_of(self, config: Config) -> str:
        """The kind of run that the file describes this one by: pretrain-<size> or evaluate-<protocol> where it has that."""
        if isinstance(config, EvaluationConfig):
            kind, detail = "evaluate", config.evaluation.name
        else:
            kind, detail = "pretrain", config.encoder.size
        return f"{kind}-{detail}" if f"{kind}-{detail}" in self.requests else kind


def list_kinds() -> list[str]:
    """The kinds of run that a cluster file may describe, beside `all`."""
    return ["pretrain", *(f"pretrain-{size}" for size in vit.SIZES),
            "evaluate", *(f"evaluate-{name}" for name in list_protocols())]


def find_cluster(name: str) -> Path:
    """The file of a cluster: a path that ends in .yaml, or the name of one of slurm/clusters."""
    if name.endswith(".yaml"):
        return Path(name)
    known = [path.stem for path in FOLDER.glob("*.yaml")]
    if name not in known:
        raise unknown("cluster", name, known)
    return FOLDER / f"{name}.yaml"


def read_cluster(path: Path) -> Cluster:
    """The cluster that the file describes; UserError with file and line where it describes none."""
    document = read_document(path)
    config = validate(ClusterConfig, document.value, document.place)
    known = [ALL, *list_kinds()]
    for kind in config.runs:
        if kind not in known:
            raise UserError(f"{unknown('kind of run', kind, known)} ({document.place(('runs', kind))})")
    kinds = {"pretrain", "evaluate", *config.runs} - {ALL}
    folders = {key: (path.parent / value).absolute() for key in ("work", "results") if (value := getattr(config, key))}
    return Cluster(path.stem, setup=config.setup, beat_seconds=config.beat_seconds, **folders,
                   requests={kind: merge_request(kind, config, document) for kind in sorted(kinds)})


def merge_request(kind: str, config: ClusterConfig, document: Document) -> Request:
    """What a kind of run asks for: `all` <- pretrain or evaluate <- the kind itself."""
    values: dict[str, Any] = {"kind": kind}
    places: dict[str, Keys] = {}  # key -> where the value that counts is written
    for section in dict.fromkeys((ALL, kind.partition("-")[0], kind)):
        given = config.runs[section].to_json() if section in config.runs else {}
        values |= given
        places |= {key: ("runs", section, key) for key in given}
    values.setdefault("processes", max(1, values.get("gpus", 0)))

    def locate(keys: Keys) -> str:
        return document.place(places.get(str(keys[0]), ("runs", kind)) if keys else ("runs", kind))

    return validate(Request, values, locate, f"runs.{kind}.")
