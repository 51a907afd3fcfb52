"""Reads cluster files. A cluster file says where a sweep runs, and what each kind of run requests from Slurm."""

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
SAVE_SECONDS = 120  # a job receives the signal to save this long before its time limit; the signal may be a minute late
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
    """The requests of one kind of run. A setting that is left out comes from the more general sections."""

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
    """What a job of one kind requests. `nodes` is for the whole job, `cpus` is per process, all else is per node."""

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
        """The options of sbatch for this request."""
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
    setup: tuple[str, ...] = ()  # lines of bash that run before the worker starts
    beat_seconds: float = BEAT_SECONDS
    requests: dict[str, Request] = field(default_factory=dict)  # by kind of run

    def kind_of(self, config: Config) -> str:
        """The run's kind: pretrain-<size> or evaluate-<protocol> if the file has such a section, else pretrain or evaluate."""
        if isinstance(config, EvaluationConfig):
            kind, detail = "evaluate", config.evaluation.name
        else:
            kind, detail = "pretrain", config.encoder.size
        return f"{kind}-{detail}" if f"{kind}-{detail}" in self.requests else kind


def list_kinds() -> list[str]:
    """The sections that a cluster file may have under `runs`, except `all`."""
    return ["pretrain", *(f"pretrain-{size}" for size in vit.SIZES),
            "evaluate", *(f"evaluate-{name}" for name in list_protocols())]


def find_cluster(name: str) -> Path:
    """The path of a cluster file. name: a path that ends in .yaml, or the name of a file in slurm/clusters."""
    if name.endswith(".yaml"):
        return Path(name)
    known = [path.stem for path in FOLDER.glob("*.yaml")]
    if name not in known:
        raise unknown("cluster", name, known)
    return FOLDER / f"{name}.yaml"


def read_cluster(path: Path) -> Cluster:
    """The cluster of a cluster file; UserError with file and line if the file is wrong."""
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
    """The request of a kind of run: `all`, then `pretrain` or `evaluate`, then the kind itself; later sections win."""
    values: dict[str, Any] = {"kind": kind}
    places: dict[str, Keys] = {}  # key -> the place of the value that wins
    for section in dict.fromkeys((ALL, kind.partition("-")[0], kind)):
        own = config.runs[section].to_json() if section in config.runs else {}
        values |= own
        places |= {key: ("runs", section, key) for key in own}
    values.setdefault("processes", max(1, values.get("gpus", 0)))

    def locate(keys: Keys) -> str:
        return document.place(places.get(str(keys[0]), ("runs", kind)) if keys else ("runs", kind))

    return validate(Request, values, locate, f"runs.{kind}.")
