"""A sweep: a YAML file -> pre-trainings and their evaluations, and a runner for this process."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError, unknown
from bench.data import leak, store, views
from bench.data.signal import RESAMPLERS
from bench.data.store import Store
from bench.evaluation import runner as evaluation
from bench.report.aggregate import RANDOM
from bench.runs import config
from bench.runs import results as record
from bench.runs.config import Config
from bench.training.trainer import Where, build, pretrain

SCHEMA: dict[str, dict[str, type]] = {
    "pretrain": {"methods": list, "seeds": list, "mix": dict, "set": dict, "per_method": dict, "grid": list},
    "evaluate": {"store": str, "methods": list, "tasks": list, "protocols": list, "seeds": list, "at": list,
                 "set": dict, "per_protocol": dict, "grid": list},
}
FROM_SCRATCH = {"finetune": "scratch", "finetune-after-linear": None}  # what they are of a backbone that learned nothing
OPTIONAL = {"at", "set", "per_method", "per_protocol", "grid"}


@dataclass(frozen=True)
class Pretraining:
    """One pre-training and the evaluations that follow it."""

    run_id: str
    config: Config
    evaluations: dict[str, Config] = field(default_factory=dict)  # run_id -> config


def read(path: Path) -> dict[str, Any]:
    """The spec in path, checked."""
    spec = config.read_yaml(path)
    with config.located(path):
        return checked(spec, path)


def checked(spec: dict[str, Any], path: Path) -> dict[str, Any]:
    """The spec with names of mixtures as mixtures and both sections as lists; UserError naming path and what is wrong."""
    for section in spec:
        if section not in SCHEMA:
            raise unknown(f"section in {path}:", section, SCHEMA)
    many: dict[str, list[Any]] = {}
    for section in SCHEMA:
        given = spec.get(section)
        many[section] = given if isinstance(given, list) else [given]
    for section, parts in many.items():
        if not parts:
            raise UserError(f"{path}: {section} is an empty list; name what to {section}")
        for part in parts:
            if not isinstance(part, dict):
                raise UserError(f"{path} has no section {section!r}; a sweep has pretrain and evaluate, one of each or a list")
            check_section(part, section, path)
    methods = list(dict.fromkeys(name for first in many["pretrain"] for name in first["methods"]))
    for named in (then.get("methods", []) for then in many["evaluate"]):
        for i, name in enumerate(named):
            if name not in methods:
                raise unknown(f"method in {path}, evaluate.methods:", name, methods)
            if name in named[:i]:
                raise UserError(f"{path}: evaluate.methods names {name} twice")
    return many


def check_section(part: dict[str, Any], section: str, path: Path) -> None:
    """UserError unless the section has the keys that it needs, of the right types; names of mixtures become mixtures."""
    keys = SCHEMA[section]
    for key, value in part.items():
        if key not in keys:
            raise unknown(f"key in {path}, {section}:", key, keys)
        if key == "mix" and isinstance(value, str):
            value = part[key] = config.mixture(value)
        if not isinstance(value, keys[key]):
            raise UserError(f"{path}: {section}.{key} must be a {keys[key].__name__}, got {value!r}")
        if not value and key not in OPTIONAL:
            raise UserError(f"{path}: {section}.{key} is empty; name one at least")
        if isinstance(value, dict) and not all(isinstance(k, str) for k in value):
            raise UserError(f"{path}: the keys of {section}.{key} must be texts, got {list(value)}")
        if key == "grid":
            check_grids(part[key], section, path)
        if key.startswith("per_"):
            for name, overrides in part[key].items():
                if not isinstance(overrides, dict) or not all(isinstance(k, str) for k in overrides):
                    raise UserError(f"{path}: {section}.{key}.{name} must be a mapping of keys to values, "
                                    f"got {overrides!r}")
    needless = {"methods"} if section == "evaluate" else set()
    if all("data.mix" in grid for grid in grids_of(part)):
        needless |= {"mix"}
    for key in sorted(keys.keys() - part.keys() - OPTIONAL - needless):
        raise UserError(f"{path}: {section} has no {key!r}")
    for what, named in (("method", "methods"), ("protocol", "protocols")):
        for name in part.get(f"per_{what}", {}):
            if name not in part[named]:
                raise unknown(f"{what} in {path}, {section}.per_{what}:", name, part[named])


def check_grids(grids: list[Any], section: str, path: Path) -> None:
    """UserError unless each grid is a mapping of keys to lists; names of mixtures become mixtures."""
    for grid in grids:
        if not isinstance(grid, dict) or not grid:
            raise UserError(f"{path}: {section}.grid must be a list of mappings of keys to lists of values, got {grid!r}")
        for name, values in grid.items():
            if not isinstance(values, list) or not values:
                raise UserError(f"{path}: {section}.grid.{name} must be a list of values, one at least, got {values!r}")
            if name == "data.mix":
                grid[name] = [config.mixture(v) if isinstance(v, str) else v for v in values]


def expand(spec: dict[str, Any], stores: dict[str, Store]) -> list[Pretraining]:
    """Every run of the sweep; all configs are checked before anything runs.

    A method of no steps needs no seeds; of its backbone finetune is scratch, and there is no finetune-after-linear.
    `random` is a backbone of every encoder that its section trains.
    """
    out: dict[str, Pretraining] = {}
    seen: dict[str, dict[str, torch.Tensor]] = {}
    checked: set[str] = set()
    follow: dict[tuple[bool, ...], list[Config]] = {}  # whether it learns, which sections are its own -> evaluations
    for method, seed, mix, overrides in pretrainings(spec["pretrain"]):
        own = [method in then.get("methods", [method]) for then in spec["evaluate"]]
        sections = list(itertools.compress(spec["evaluate"], own))
        if method != RANDOM and any("at" in then for then in sections):
            overrides["checkpoints.at"] = sorted({at for then in sections for at in then.get("at", [])} - {1})
        made = pretraining_config(method, seed, mix, stores, overrides)
        run = Pretraining(config.run_id(made), made)
        if run.run_id in out:
            if made["optim"]["steps"]:
                raise UserError(f"the sweep has one run twice: {method}, seed {seed}; a list of it names a value twice, or two "
                                "sections have it")
            continue
        learns = made["optim"]["steps"] > 0
        if (learns, *own) not in follow:
            follow[learns, *own] = evaluations(sections, stores, learns)
        for c in follow[learns, *own]:
            c = {**c, "pretrain": run.run_id}
            run.evaluations[config.run_id(c)] = c
        if not run.evaluations:
            if made["optim"]["steps"] or not sections:
                protocols = ", ".join(dict.fromkeys(name for then in sections for name in then["protocols"]))
                why = f": {protocols} go with random alone" if sections else ""
                raise UserError(f"the sweep evaluates {method} in no way{why}")
            continue
        recipe = config.canonical({**made, "seed": 0})  # seeds differ in nothing that is checked
        if recipe not in checked:
            check(run, stores, seen)
            checked.add(recipe)
        out[run.run_id] = run
    return list(out.values())


def pretrainings(sections: list[dict[str, Any]]) -> Iterator[tuple[str, int, dict[str, float], dict[str, Any]]]:
    """(method, seed, mixture, overrides) of each; random ones, untrained, have no optimiser settings and the first mixture."""
    mixes: list[Any] = [cells(first)[0].get("data.mix", first.get("mix")) for first in sections if RANDOM in first["methods"]]
    for first in sections:
        for method, cell, seed in itertools.product(first["methods"], cells(first), first["seeds"]):
            overrides = settings(first, method, cell)
            mix = overrides.pop("data.mix", first.get("mix"))
            if method != RANDOM:
                yield method, seed, mix, overrides
                continue
            config.load(method, overrides.items())  # a typo is a typo
            others = {k: v for k, v in overrides.items() if k.partition(".")[0] not in ("optim", "encoder")}
            for encoder in encoders(first, cell):
                yield method, seed, mixes[0], others | {f"encoder.{key}": value for key, value in encoder.items()}


def settings(first: dict[str, Any], method: str, cell: dict[str, Any]) -> dict[str, Any]:
    """What the section sets of a method's pre-training in a cell of its grid."""
    return {**first.get("set", {}), **first.get("per_method", {}).get(method, {}), **cell}


def encoders(first: dict[str, Any], cell: dict[str, Any]) -> list[Config]:
    """The encoder of every method that the section trains in a cell of its grid, each once; random's own where it trains none."""
    methods = [name for name in first["methods"] if name != RANDOM] or [RANDOM]
    if own := [key for key in first.get("per_method", {}).get(RANDOM, {}) if key.startswith("encoder.") and methods != [RANDOM]]:
        raise UserError(f"pretrain.per_method.{RANDOM} sets {own[0]}: {RANDOM} has the encoders of the other methods; "
                        "set it for those")
    made = [config.load(method, settings(first, method, cell).items())["encoder"] for method in methods]
    return list({config.canonical(encoder): encoder for encoder in made}.values())


def evaluations(sections: list[dict[str, Any]], stores: dict[str, Store], learns: bool) -> list[Config]:
    """The evaluations that follow a pre-training whose run_id is yet to be filled in.

    Of a backbone that learns nothing there is one checkpoint, finetune is scratch, and what differs in that alone is one.
    """
    out: dict[str, Config] = {}
    for then in sections:
        for task, protocol, cell in itertools.product(then["tasks"], then["protocols"], cells(then)):
            name = protocol if learns else FROM_SCRATCH.get(protocol, protocol)
            if name is None or (learns and protocol == "scratch"):
                continue
            settings = overrides_of(then, protocol, cell)
            points = then.get("at", [1.0]) if learns else [1.0]
            for seed, at in itertools.product(evaluation.seeds_of(protocol, learns, then["seeds"]), points):
                made = evaluation.config_for(name, task, "", stores[then["store"]], seed, [*settings, ("at", at)])
                if out.setdefault(config.run_id(made), made) is not made and learns:
                    raise UserError(f"the sweep has one evaluation twice: {name}, {task}, seed {seed}; a list of it names a "
                                    f"value twice")
    return list(out.values())


def grids_of(section: dict[str, Any]) -> list[dict[str, Any]]:
    """The section's grids; one of one cell where it has none."""
    return section.get("grid") or [{}]


def cells(section: dict[str, Any]) -> list[dict[str, Any]]:
    """The overrides of every cell of the section's grids: key -> one of its values."""
    return [dict(zip(grid, values, strict=True)) for grid in grids_of(section)
            for values in itertools.product(*grid.values())]


def overrides_of(then: dict[str, Any], protocol: str, cell: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the sweep sets of a protocol's evaluations; a linear evaluation to start from is as its own are."""
    def given(name: str) -> list[tuple[str, Any]]:
        return [*then.get("set", {}).items(), *then.get("per_protocol", {}).get(name, {}).items(), *cell.items()]

    return (evaluation.of_linear(given("linear")) if protocol == "finetune-after-linear" else []) + given(protocol)


def check(run: Pretraining, stores: dict[str, Store], seen: dict[str, dict[str, torch.Tensor]]) -> None:
    """UserError for what would otherwise show only when the run is reached, after hours of others.

    seen: what pre-trainings may draw from, by their data section; filled in here.
    """
    made, checked = run.config, set()
    data, key = made["data"], config.canonical(made["data"])
    views.check(made["views"], made["data"]["rate_hz"], made["data"]["crop_seconds"], made["encoder"]["patch"])
    with torch.device("meta"):  # shapes alone
        build(made)
    if made["optim"]["steps"] and key not in seen:
        seen[key] = leak.seen([stores[name] for name in data["mix"]], data["folds"],
                              round(data["crop_seconds"] * data["rate_hz"]))
    for c in run.evaluations.values():
        rules = config.canonical({**c, "seed": 0})
        if rules not in checked:
            evaluation.check_protocol(c, made["optim"]["steps"] > 0)
            target = stores[c["data"]["store"]]
            task = evaluation.open_task(c, made, target)
            if made["optim"]["steps"]:
                evaluation.check_unseen(seen[key], task, target)
        checked.add(rules)


def pretraining_config(method: str, seed: int, mix: dict[str, float], stores: dict[str, Store],
                       overrides: dict[str, Any]) -> Config:
    """A pre-training's config, with the stores' fingerprints in it."""
    made = config.load(method, [*overrides.items(), ("seed", seed), ("data.mix", dict(mix))])
    return with_fingerprints(made, stores)


def with_fingerprints(made: Config, stores: dict[str, Store]) -> Config:
    """The config with its stores' fingerprints; UserError where a store was not prepared as the config says."""
    data = made["data"]
    if data["resampling"] not in RESAMPLERS:
        raise unknown("data.resampling", data["resampling"], RESAMPLERS)
    for name in data["mix"]:
        store, manifest = stores[name], stores[name].manifest
        if store.rate_hz != data["rate_hz"]:
            raise UserError(f"store {name} has {store.rate_hz} Hz, data.rate_hz is {data['rate_hz']}; "
                            f"set data.rate_hz or prepare the store at that rate")
        if manifest["resampled"] and manifest["resampling"] != data["resampling"]:
            raise UserError(f"store {name} was resampled by {manifest['resampling']}, data.resampling is "
                            f"{data['resampling']}; set it, or prepare the store with --resampling {data['resampling']}")
    data["fingerprints"] = {name: stores[name].fingerprint for name in sorted(data["mix"])}
    return made


def open_stores(folder: Path, names: set[str]) -> dict[str, Store]:
    return {name: store.open_by_name(folder, name) for name in sorted(names)}


def load(path: Path, work: Path) -> tuple[list[Pretraining], dict[str, Store]]:
    """(every run of the sweep in path, the stores that they need)."""
    spec = read(path)
    with config.located(path):
        mixes = [mix for first in spec["pretrain"]
                 for mix in (first.get("mix", {}), *(cell.get("data.mix", {}) for cell in cells(first)))]
        stores = open_stores(work / "stores", {then["store"] for then in spec["evaluate"]}.union(*mixes))
        return expand(spec, stores), stores


def run(path: Path, where: Where, say: Callable[[str], None] = print) -> list[Pretraining]:
    """Run the sweep in this process, skipping whatever has a record: interrupting and repeating it is safe."""
    runs, stores = load(path, where.work)
    every = [name for r in runs for name in (r.run_id, *r.evaluations)]
    done = sum(record.exists(where.results, name) for name in every)
    say(f"{path.name}: {len(runs)} pre-trainings, {len(every) - len(runs)} evaluations; {done} of {len(every)} done")
    for r in runs:
        wanted = [name for name in r.evaluations if not record.exists(where.results, name)]
        if record.exists(where.results, r.run_id) and not wanted:
            continue
        pretrain(r.config, [stores[name] for name in r.config["data"]["mix"]], where)
        for name in dict.fromkeys(c["data"]["store"] for c in r.evaluations.values()):
            evaluation.evaluate([c for c in r.evaluations.values() if c["data"]["store"] == name], stores[name], where)
    return runs
