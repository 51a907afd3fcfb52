"""Expands a sweep, a YAML file, into pre-trainings and their evaluations, checks them all, and runs them on this machine."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field

from bench.core.errors import UserError, unknown
from bench.core.models import Locate, Model, Natural, PositiveFloat, Share, Text, canonical, validate
from bench.core.yaml import Document, Keys, read_document
from bench.data import leak, views
from bench.data.store import Store, open_by_name
from bench.encoders.config import EncoderConfig
from bench.evaluation import inputs, protocols
from bench.evaluation import runner as evaluation
from bench.method import build_model
from bench.runs.config import EvaluationConfig, PretrainConfig, find_methods, load_pretrain_config, run_id
from bench.runs.layers import Override, overrides_of
from bench.runs.mixtures import load_mixture
from bench.runs.results import result_exists
from bench.runs.workspace import Workspace
from bench.training.inputs import fill_fingerprints
from bench.training.source import check_results
from bench.training.trainer import pretrain

RANDOM = "random"
FROM_SCRATCH = {"finetune": "scratch", "finetune-after-linear": None}  # protocol -> its replacement on a random backbone

Values = dict[Text, Any]
Names = Annotated[tuple[Text, ...], Field(min_length=1)]
Seeds = Annotated[tuple[Natural, ...], Field(min_length=1)]
Grid = dict[Text, Annotated[list[Any], Field(min_length=1)]]


class PretrainSection(Model):
    """Pre-trainings: every method with every seed and every combination of values in each grid."""

    methods: Names
    seeds: Seeds
    mix: dict[Text, PositiveFloat] | Text | None = None
    set: Values = Field(default_factory=dict)
    per_method: dict[Text, Values] = Field(default_factory=dict)
    grid: tuple[Grid, ...] = ()


class EvaluateSection(Model):
    """Evaluations of these pre-trainings: every task with every protocol and seed and every combination in each grid."""

    store: Text
    tasks: Names
    protocols: Names
    seeds: Seeds
    methods: tuple[Text, ...] | None = None
    at: tuple[Share, ...] | None = None
    set: Values = Field(default_factory=dict)
    per_protocol: dict[Text, Values] = Field(default_factory=dict)
    grid: tuple[Grid, ...] = ()


class SweepConfig(Model):
    """A sweep file."""

    pretrain: Annotated[tuple[PretrainSection, ...], Field(min_length=1)]
    evaluate: Annotated[tuple[EvaluateSection, ...], Field(min_length=1)]


@dataclass(frozen=True)
class MissingStore:
    """A store that is not in the work folder. Its runs can be counted, but their run_ids change when the store is added."""

    name: str
    fingerprint: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep file that has been read: its config, and the place of each value in the file."""

    config: SweepConfig
    document: Document

    def place(self, *keys: str | int) -> str:
        """The text "FILE line N" for the value at `keys`."""
        section = keys[0]
        if not isinstance(self.document.value.get(str(section)), list):  # one section without a list around it
            keys = (section, *keys[2:])
        return self.document.place(keys)

    def overrides(self, values: dict[str, Any], *keys: str | int) -> list[Override]:
        """The values at `keys` in the file as overrides with their place."""
        return [Override(key, value, self.place(*keys, key)) for key, value in values.items()]


@dataclass(frozen=True)
class Pretraining:
    """One pre-training and the evaluations that follow it."""

    run_id: str
    config: PretrainConfig
    evaluations: dict[str, EvaluationConfig] = field(default_factory=dict)  # run_id -> config


def read_sweep(path: Path) -> Sweep:
    """The sweep in path; see parse_sweep."""
    return parse_sweep(read_document(path))


def parse_sweep(document: Document) -> Sweep:
    """The sweep of a document, after all checks that need no stores; UserError with file and line."""
    sweep = Sweep(SweepConfig.model_construct(), document)
    value: dict[str, Any] = dict(document.value)
    sections: tuple[tuple[str, type[Model]], ...] = (("pretrain", PretrainSection), ("evaluate", EvaluateSection))
    for key, model in sections:
        part = value.get(key)
        if isinstance(part, list):
            value[key] = [validate(model, each, _locator(sweep, key, i), f"{key}[{i}].") for i, each in enumerate(part)]
        elif part is not None:
            value[key] = [validate(model, part, _locator(sweep, key, 0), f"{key}.")]
    sweep = Sweep(validate(SweepConfig, value, document.place), document)
    check_names(sweep)
    return sweep


def _locator(sweep: Sweep, section: str, i: int) -> Locate:
    return lambda keys: sweep.place(section, i, *keys)


def check_names(sweep: Sweep) -> None:
    """UserError if a section names a method or protocol that does not exist or that the sweep does not use."""
    for i, first in enumerate(sweep.config.pretrain):
        check_known("method", first.methods, list(find_methods()), sweep, ("pretrain", i, "methods"))
        check_known("method", first.per_method, first.methods, sweep, ("pretrain", i, "per_method"))
        if not first.mix and not all("data.mix" in cell for cell in expand_grid(first)):
            raise UserError(f"pretrain.mix is missing: name the stores, e.g. {{ptb-xl: 1.0}} ({sweep.place('pretrain', i)})")
    methods = list(dict.fromkeys(name for first in sweep.config.pretrain for name in first.methods))
    for i, then in enumerate(sweep.config.evaluate):
        check_known("protocol", then.protocols, protocols.list_protocols(), sweep, ("evaluate", i, "protocols"))
        check_known("protocol", then.per_protocol, then.protocols, sweep, ("evaluate", i, "per_protocol"))
        check_known("method", then.methods or (), methods, sweep, ("evaluate", i, "methods"))
        if then.methods and len(set(then.methods)) < len(then.methods):
            raise UserError(f"evaluate.methods names a method twice: {', '.join(then.methods)} "
                            f"({sweep.place('evaluate', i, 'methods')})")


def check_known(kind: str, names: Iterable[str], known: Sequence[str], sweep: Sweep, keys: Keys) -> None:
    """UserError for the first of the names that is not known."""
    for i, name in enumerate(names):
        if name not in known:
            place = sweep.place(*keys, name) if isinstance(names, dict) else sweep.place(*keys, i)
            raise UserError(f"{unknown(kind, name, known)} ({place})")


def expand(sweep: Sweep, stores: Mapping[str, Store]) -> list[Pretraining]:
    """All runs of the sweep, with checked configs.

    If `stores` lacks a store, configs with that store have no fingerprint and are checked without their data. A method of no
    steps has one run, whatever the seeds; on its random backbone finetune becomes scratch, and finetune-after-linear is left
    out. `random` yields one random backbone for every encoder in its section.
    """
    out: dict[str, Pretraining] = {}
    checks = Checks(stores)
    follow: dict[tuple[bool, ...], list[EvaluationConfig]] = {}  # (takes steps, flag per section) -> evaluations
    for config in expand_pretrain(sweep, stores):
        method, learns = config.method.name, config.optim.steps > 0
        own = tuple(method in (then.methods or (method,)) for then in sweep.config.evaluate)
        run = Pretraining(run_id(config), config)
        if run.run_id in out:
            if learns:
                raise UserError(f"the sweep has one run twice: {method}, seed {config.seed}; a list names a value twice, or two "
                                "sections have the same run")
            continue
        if (learns, *own) not in follow:
            follow[learns, *own] = expand_evaluate(sweep, stores, own, learns)
        for each in follow[learns, *own]:
            each = each.replace(pretrain=run.run_id)
            run.evaluations[run_id(each)] = each
        if not run.evaluations:
            if learns or not any(own):
                sections = itertools.compress(sweep.config.evaluate, own)
                names = ", ".join(dict.fromkeys(name for then in sections for name in then.protocols))
                raise UserError(f"the sweep has no evaluation of {method}" + (f": {names} need random" if names else ""))
            continue
        checks.check(run)
        out[run.run_id] = run
    return list(out.values())


def expand_pretrain(sweep: Sweep, stores: Mapping[str, Store]) -> Iterator[PretrainConfig]:
    """Yield the config of every pre-training, with the known fingerprints of its stores. Some configs occur twice.

    Random backbones have the default optimiser settings, the mixture of the first section with `random`, and seed 0.
    """
    sections = sweep.config.pretrain
    mixes = [expand_grid(first)[0].get("data.mix", first.mix) for first in sections if RANDOM in first.methods]
    for i, first in enumerate(sections):
        for method, cell, seed in itertools.product(first.methods, expand_grid(first), first.seeds):
            overrides = pretrain_overrides(sweep, i, method, cell)
            if method == RANDOM:
                load_pretrain_config(method, overrides)  # refuses wrong overrides, even those that are dropped below
                overrides = [each for each in overrides if each.key.partition(".")[0] not in ("optim", "encoder")]
                overrides += overrides_of({"data.mix": mixes[0]})
                for encoder in list_encoders(sweep, i, cell):
                    own = overrides_of({f"encoder.{key}": value for key, value in encoder.to_json().items()})
                    yield fill_known(load_pretrain_config(method, [*overrides, *own]), stores)
                continue
            points = {at for then in sweep.config.evaluate if method in (then.methods or (method,)) for at in then.at or ()}
            if any(then.at for then in sweep.config.evaluate if method in (then.methods or (method,))):
                overrides.append(Override("checkpoints.at", sorted(points - {1})))
            config = load_pretrain_config(method, overrides)
            yield fill_known(config.replace(seed=seed if config.optim.steps else 0), stores)


def fill_known(config: PretrainConfig, stores: Mapping[str, Store]) -> PretrainConfig:
    """The config with the fingerprints of its stores if all of them are known, else the config unchanged."""
    return fill_fingerprints(config, stores) if config.data.mix.keys() <= stores.keys() else config


def pretrain_overrides(sweep: Sweep, i: int, method: str, cell: dict[str, Any]) -> list[Override]:
    """The overrides that section i sets for a method in a cell of its grid; later ones win."""
    first = sweep.config.pretrain[i]
    mix = [Override("data.mix", first.mix, sweep.place("pretrain", i, "mix"))] if first.mix is not None else []
    return [*mix, *sweep.overrides(first.set, "pretrain", i, "set"),
            *sweep.overrides(first.per_method.get(method, {}), "pretrain", i, "per_method", method),
            *(Override(key, value, sweep.place("pretrain", i, "grid")) for key, value in cell.items())]


def list_encoders(sweep: Sweep, i: int, cell: dict[str, Any]) -> list[EncoderConfig]:
    """The different encoders that section i trains in a cell of its grid; the encoder of `random` if it trains none."""
    first = sweep.config.pretrain[i]
    methods = [name for name in first.methods if name != RANDOM] or [RANDOM]
    for key in first.per_method.get(RANDOM, {}):
        if key.startswith("encoder.") and methods != [RANDOM]:
            raise UserError(f"pretrain.per_method.{RANDOM} sets {key}: {RANDOM} has the encoders of the other methods; set it "
                            f"for those ({sweep.place('pretrain', i, 'per_method', RANDOM, key)})")
    encoders = [load_pretrain_config(method, pretrain_overrides(sweep, i, method, cell)).encoder for method in methods]
    return list({canonical(encoder): encoder for encoder in encoders}.values())


def expand_evaluate(sweep: Sweep, stores: Mapping[str, Store], own: Sequence[bool], learns: bool) -> list[EvaluationConfig]:
    """The evaluations of a pre-training, without its run_id. own: per section, whether it evaluates this pre-training.

    A random backbone (learns: False) has one checkpoint, and finetune becomes scratch. Configs that are equal then count once.
    """
    out: dict[str, EvaluationConfig] = {}
    for i, then in enumerate(sweep.config.evaluate):
        store = stores.get(then.store) or cast(Store, MissingStore(then.store))  # configs read only its name and fingerprint
        for task, protocol, cell in itertools.product(then.tasks, then.protocols, expand_grid(then)) if own[i] else ():
            name = protocol if learns else FROM_SCRATCH.get(protocol, protocol)
            if name is None or (learns and protocol == "scratch"):
                continue
            overrides = evaluation_overrides(sweep, i, protocol, cell)
            points = (then.at or (1.0,)) if learns else (1.0,)
            for seed, at in itertools.product(protocols.select_seeds(protocol, learns, then.seeds), points):
                config = protocols.load_evaluation_config(
                    name, task, "", store, seed, overrides=[*overrides, Override("at", at)])
                if out.setdefault(run_id(config), config) is not config and learns:
                    raise UserError(f"the sweep has one evaluation twice: {name}, {task}, seed {seed}; a list names a "
                                    f"value twice ({sweep.place('evaluate', i)})")
    return list(out.values())


def evaluation_overrides(sweep: Sweep, i: int, protocol: str, cell: dict[str, Any]) -> list[Override]:
    """The overrides that section i sets for a protocol. finetune-after-linear starts from the section's linear evaluation."""
    then = sweep.config.evaluate[i]

    def of(name: str) -> list[Override]:
        return [*sweep.overrides(then.set, "evaluate", i, "set"),
                *sweep.overrides(then.per_protocol.get(name, {}), "evaluate", i, "per_protocol", name),
                *(Override(key, value, sweep.place("evaluate", i, "grid")) for key, value in cell.items())]

    return (protocols.start_from_linear(of("linear")) if protocol == "finetune-after-linear" else []) + of(protocol)


def expand_grid(section: PretrainSection | EvaluateSection) -> list[dict[str, Any]]:
    """The cells of the section's grids, each a dict of key -> one of its values; one empty cell if there is no grid."""
    return [dict(zip(grid, values, strict=True)) for grid in section.grid or ({},)
            for values in itertools.product(*grid.values())]


class Checks:
    """Checks runs before the sweep begins, so that no error comes after hours. Runs that differ only in seed count once."""

    def __init__(self, stores: Mapping[str, Store]):
        self.stores, self.recipes = stores, set[str]()
        self.seen: dict[str, dict[str, torch.Tensor]] = {}  # data section -> leak marks of its records

    def check(self, run: Pretraining) -> None:
        """UserError if the run cannot be trained or evaluated with its configs."""
        config = run.config
        recipe = canonical(config.replace(seed=0))
        if recipe in self.recipes:
            return
        self.recipes.add(recipe)
        views.check(config.views, config.data.rate_hz, config.data.crop_seconds, config.encoder.patch)
        with torch.device("meta"):  # shapes alone
            build_model(config)
        checked = set[str]()
        for each in run.evaluations.values():
            recipe = canonical(each.replace(seed=0))
            if recipe not in checked:
                protocols.check_protocol(each, config.optim.steps > 0)
                self.check_data(config, each)
            checked.add(recipe)

    def check_data(self, config: PretrainConfig, each: EvaluationConfig) -> None:
        """UserError if the evaluation's store does not have the task, or if the pre-training sees held-out records."""
        data = config.data
        if each.data.store not in self.stores:
            return
        store = self.stores[each.data.store]
        task = inputs.open_task(each, config, store)
        if not config.optim.steps or not data.mix.keys() <= self.stores.keys():
            return
        key = canonical(data)
        if key not in self.seen:
            self.seen[key] = leak.training_marks([self.stores[name] for name in data.mix], data.folds,
                                                 round(data.crop_seconds * data.rate_hz))
        inputs.check_unseen(self.seen[key], task, store)


def list_stores(sweep: Sweep) -> list[str]:
    """The names of the stores that the sweep needs, sorted."""
    sections = sweep.config.pretrain
    mixes = [mix for first in sections for mix in (first.mix, *(cell.get("data.mix") for cell in expand_grid(first)))]
    named = [load_mixture(mix) if isinstance(mix, str) else mix or {} for mix in mixes]
    return sorted({then.store for then in sweep.config.evaluate}.union(*named))


def load_sweep(path: Path, work: Path) -> tuple[list[Pretraining], dict[str, Store]]:
    """(every run of the sweep in path, the stores that they need)."""
    sweep = read_sweep(path)
    stores = {name: open_by_name(work / "stores", name) for name in list_stores(sweep)}
    return expand(sweep, stores), stores


def preview_sweep(path: Path, work: Path) -> tuple[list[Pretraining], list[str]]:
    """(every run of the sweep in path, the names of needed stores that are not in the work folder).

    The run_ids are final only if no store is missing.
    """
    sweep = read_sweep(path)
    missing = [name for name in list_stores(sweep) if not (work / "stores" / name).is_dir()]
    stores = {name: open_by_name(work / "stores", name) for name in list_stores(sweep) if name not in missing}
    return expand(sweep, stores), missing


def run_sweep(path: Path, workspace: Workspace, say: Callable[[str], None] = print) -> list[Pretraining]:
    """Run the sweep in this process, without the runs that have a result. It is safe to interrupt and repeat it.

    UserError if the code of a method has changed since it gave a result.
    say: receives a line with the number of runs and the number of results.
    """
    runs, stores = load_sweep(path, workspace.work)
    check_results({run.run_id: run.config for run in runs}, workspace.work, workspace.results)
    names = [name for run in runs for name in (run.run_id, *run.evaluations)]
    done = {name for name in names if result_exists(workspace.results, name)}
    say(f"{path.name}: {len(runs)} pre-trainings, {len(names) - len(runs)} evaluations; {len(done)} of {len(names)} already done")
    for run in runs:
        if done.issuperset([run.run_id, *run.evaluations]):
            continue
        pretrain(run.config, [stores[name] for name in run.config.data.mix], workspace)
        for name in dict.fromkeys(config.data.store for config in run.evaluations.values()):
            configs = [config for config in run.evaluations.values() if config.data.store == name]
            evaluation.evaluate(configs, stores[name], workspace)
    return runs
