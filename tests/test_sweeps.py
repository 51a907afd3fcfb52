"""A sweep runs what has no record, is checked before anything runs, and may be interrupted anywhere."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import corpora
import pytest
import torch
import yaml
from conftest import heads
from corpora import noise

from bench import sweeps as sweep
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.core.interrupt import Interrupted
from bench.core.models import canonical
from bench.core.yaml import Document
from bench.evaluation import runner as evaluation
from bench.evaluation.protocols import derive_linear
from bench.method import build_model
from bench.runs import results as record
from bench.runs.workspace import Workspace
from bench.training import optim
from bench.training.inputs import fill_fingerprints

SPEC: dict[str, Any] = {
    "pretrain": {
        "methods": ["random", "jepa", "mae"], "seeds": [0, 1], "mix": {"tiny": 1},
        "set": {"data.rate_hz": 100, "encoder.size": "nano", "optim.steps": 4, "optim.batch": 4,
                "optim.warmup_steps": 0},
        "per_method": {m: heads(m) for m in ("jepa", "mae")},
    },
    "evaluate": {
        "store": "tiny", "tasks": ["pitch"], "protocols": ["linear", "finetune"], "seeds": [0],
        "set": {"evaluation.steps": 4, "evaluation.batch": 16, "evaluation.validate_every": 2},
        "per_protocol": {"finetune": {"evaluation.warmup_steps": 1}},
    },
}


def checked(spec: dict[str, Any], path: Path) -> sweep.Sweep:
    return sweep.parse_sweep(Document(path, spec, {}))


def changed(path: str, value: object) -> dict[str, Any]:
    """SPEC with one key (a.b.c) set, or removed where the value is None."""
    spec = json.loads(json.dumps(SPEC))
    *parents, leaf = path.split("/")
    node = spec
    for key in parents:
        node = node.setdefault(key, {})
    if value is None:
        del node[leaf]
    else:
        node[leaf] = value
    return spec


@pytest.fixture
def place(tmp_path: Path, stores: Path, nano: object) -> Callable[[str], Workspace]:
    """A work folder of that name with the store `tiny` in it."""

    def make(name: str) -> Workspace:
        (tmp_path / name).mkdir()
        (tmp_path / name / "stores").symlink_to(stores)
        return Workspace(tmp_path / name, tmp_path / name / "results", torch.device("cpu"), save_steps=2)

    return make


HERE = Path("spec.yaml")  # as messages name it


def run(spec: dict[str, Any], where: Workspace) -> tuple[list[sweep.Pretraining], str]:
    path, said = where.work / "spec.yaml", list[str]()
    path.write_text(yaml.safe_dump(spec))
    return sweep.run_sweep(path, where, said.append), said[0]


def state(where: Workspace) -> dict[str, tuple[int, bytes]]:
    """Every file of the work folder with its time and bytes."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in where.work.rglob("*") if p.is_file()
            and p.name != "spec.yaml"}


def outcome(where: Workspace) -> dict[str, Any]:
    """Every record without what the clock and the machine decide."""
    out = {}
    for path in where.results.glob("*.json"):
        made = json.loads(path.read_text())
        del made["provenance"]
        for key in ("seconds", "records_per_second", "peak_memory_mb"):
            made["result"].pop(key, None)
        for key in ("records_per_second", "memory_mb"):
            made["result"].get("curves", {}).pop(key, None)
        out[path.name] = made
    return out


def test_a_sweep_runs_every_combination_and_the_second_time_nothing(place: Callable[[str], Workspace]) -> None:
    where = place("a")
    runs, said = run(SPEC, where)
    assert said == "spec.yaml: 5 pre-trainings, 10 evaluations; 0 of 15 done"
    assert [r.config["method"]["name"] for r in runs] == ["random", "jepa", "jepa", "mae", "mae"]  # random has no seeds
    assert [r.config["seed"] for r in runs] == [0, 0, 1, 0, 1]
    assert all(record.exists(where.results, name) for r in runs for name in (r.run_id, *r.evaluations))
    assert len(list(where.results.iterdir())) == 15
    before = state(where)
    assert len(before) > 40
    _, said = run(SPEC, where)
    assert said.endswith("15 of 15 done")
    assert state(where) == before


def test_a_sweep_that_grew_runs_only_what_is_new(place: Callable[[str], Workspace]) -> None:
    where = place("a")
    spec = {**SPEC, "pretrain": {**SPEC["pretrain"], "methods": ["jepa"], "seeds": [0], "per_method": {}}}
    first, _ = run(spec, where)
    before = state(where)
    spec["pretrain"]["seeds"] = [0, 1]
    grown, said = run(spec, where)
    assert said == "spec.yaml: 2 pre-trainings, 4 evaluations; 3 of 6 done"
    assert grown[0].run_id == first[0].run_id
    after = state(where)
    assert {k: after[k] for k in before} == before


@pytest.mark.parametrize("at", [1, 6, 11])
def test_an_interrupted_sweep_repeated_gives_what_an_uninterrupted_one_gives(place: Callable[[str], Workspace], at: int,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**SPEC, "pretrain": {**SPEC["pretrain"], "methods": ["random", "jepa"], "seeds": [0],
                                 "per_method": {"jepa": SPEC["pretrain"]["per_method"]["jepa"]}}}
    straight, broken = place("straight"), place("broken")
    run(spec, straight)
    schedule, calls = optim.schedule_, []

    def send(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return schedule(*arguments)

    with monkeypatch.context() as m:
        m.setattr(optim, "schedule_", send)
        with pytest.raises(Interrupted, match="the same command continues"):
            run(spec, broken)
    assert 0 < len(list(broken.results.iterdir())) < 6
    run(spec, broken)
    assert outcome(broken) == outcome(straight)
    assert len(outcome(broken)) == 6


@pytest.mark.parametrize(("path", "value", "words"), [
    ("pretrain", None, "has no section 'pretrain'; a sweep has pretrain and evaluate"),
    ("pretrani", {}, "unknown section .*'pretrani'; did you mean 'pretrain'"),
    ("evaluate", [1], "has no section 'evaluate'"),
    ("pretrain/method", ["jepa"], "unknown key .*'method'; did you mean 'methods'"),
    ("pretrain/methods", None, "pretrain has no 'methods'"),
    ("pretrain/methods", "jepa", "pretrain.methods must be a list, got 'jepa'"),
    ("pretrain/methods", [], "pretrain.methods is empty"),
    ("pretrain/methods", ["random", "jepa", "mae", "simlcr"], "unknown method 'simlcr'"),
    ("pretrain/seeds", [], "pretrain.seeds is empty"),
    ("pretrain/seeds", [0, "one"], "seed must be int"),
    ("pretrain/seeds", [0, -1], "seed must be 0 or more"),
    ("pretrain/mix", {}, "pretrain.mix is empty"),
    ("pretrain/mix", {"tyni": 1.0}, "no store 'tyni' in .*Known: tiny"),
    ("pretrain/mix", {"tiny": 0}, "data.mix.tiny must be a positive weight"),
    ("pretrain/set/optim.stesp", 3, "unknown key 'optim.stesp'; did you mean 'optim.steps'"),
    ("pretrain/set/data.rate_hz", 500, "store tiny has 100 Hz, data.rate_hz is 500"),
    ("pretrain/set/data.resampling", "furier", r"unknown data\.resampling 'furier'; did you mean 'fourier'"),
    ("pretrain/set/encoder.size", "nanoo", r"unknown encoder\.size 'nanoo'; did you mean 'nano'"),
    ("pretrain/set/encoder.patch", 30, "does not divide into .*patches of 30"),
    ("pretrain/set/encoder.init", "zeros", "unknown initialisation 'zeros'"),
    ("pretrain/per_method/mae/method.decoder", {"width": 9, "heads": 2}, "width 9 does not divide into 2 heads"),
    ("pretrain/per_method/simclr", {}, "unknown method .*'simclr'"),
    ("pretrain/per_method/jepa", 3, "pretrain.per_method.jepa must be a mapping"),
    ("pretrain/per_method/mae/views", [{"seconds": 30}], r"views\[0\]\.seconds is 30"),
    ("evaluate/store", "other", "no store 'other'"),
    ("evaluate/tasks", ["pitch", "pich"], "unknown task 'pich'; did you mean 'pitch'"),
    ("evaluate/tasks", [3], "task must be str"),
    ("evaluate/protocols", ["linear", "finetune", "kn"], "unknown protocol 'kn'"),
    ("evaluate/set/folds.test", [12], r"folds\.test is \[12\], but store tiny has no record"),
    ("evaluate/set/evaluation.head", "maen", r"unknown evaluation\.head 'maen'; did you mean 'mean'"),
    ("evaluate/set/evaluation.crop_seconds", 2.4, "does not divide into the backbone's patches"),
    ("evaluate/per_protocol/finetune/evaluation.steps", 1, r"evaluation\.validate_every must be between 1"),
    ("evaluate/per_protocol/finetune", {3: 4}, "evaluate.per_protocol.finetune must be a mapping of keys"),
    ("evaluate/per_protocol/knn", {}, "unknown protocol .*'knn'"),
    ("evaluate/seeds", [-1], "seed must be 0 or more"),
])
def test_a_bad_spec_is_one_line_and_nothing_has_run(place: Callable[[str], Workspace], path: str, value: object,
                                                    words: str) -> None:
    where = place("a")
    spec = changed(path, value)
    if value == {3: 4}:  # JSON knows no such key
        spec["evaluate"]["per_protocol"]["finetune"] = value
    with pytest.raises(UserError, match=words) as caught:
        run(spec, where)
    assert "\n" not in str(caught.value)
    assert not (where.work / "runs").exists()
    assert not where.results.exists()


def test_checkpoints_along_a_run_are_evaluated_too(place: Callable[[str], Workspace]) -> None:
    where = place("a")
    spec = changed("evaluate/at", [0.5, 1.0])
    spec["pretrain"]["methods"], spec["evaluate"]["protocols"] = ["random", "mae"], ["linear"]
    del spec["pretrain"]["per_method"]["jepa"], spec["evaluate"]["per_protocol"]["finetune"]
    spec["pretrain"]["set"]["optim.lr"] = 0.1
    run(spec, where)
    records = [json.loads(path.read_text()) for path in where.results.glob("*.json")]
    at = [(r["pretrain_config"]["method"]["name"], r["config"]["at"]) for r in records if r["kind"] == "evaluate"]
    assert {("mae", 0.5), ("mae", 1.0), ("random", 1.0)} == set(at)
    curves = {r["config"]["at"]: r["result"]["curve"]["loss"] for r in records
              if r["kind"] == "evaluate" and r["config"]["seed"] == 0 and r["pretrain_config"]["method"]["name"] == "mae"
              and r["pretrain_config"]["seed"] == 0}
    assert curves[0.5] != curves[1.0]


def test_several_lists_of_evaluations_follow_one_pretraining(place: Callable[[str], Workspace]) -> None:
    where, spec = place("a"), changed("pretrain/methods", ["random", "mae"])
    del spec["pretrain"]["per_method"]["jepa"]
    one = spec["evaluate"]
    spec["evaluate"] = [{**one, "at": [0.5, 1.0], "protocols": ["linear"], "per_protocol": {}},
                        {**one, "protocols": ["linear"], "per_protocol": {}, "grid": [{"fraction": [0.5]}]}]
    random, mae, *_ = sweep.expand(checked(spec, HERE), sweep.open_stores(where.work / "stores", {"tiny"}))
    assert mae.config["checkpoints"]["at"] == [0.5]
    found = {(c["at"], c["fraction"], c["seed"]) for c in mae.evaluations.values()}
    assert found == {(at, fraction, seed) for at, fraction in ((0.5, 1.0), (1.0, 1.0), (1.0, 0.5)) for seed in one["seeds"]}
    assert {(c["at"], c["fraction"]) for c in random.evaluations.values()} == {(1.0, 1.0), (1.0, 0.5)}


def test_a_list_of_evaluations_may_be_of_some_methods_alone(place: Callable[[str], Workspace]) -> None:
    opened, spec = sweep.open_stores(place("a").work / "stores", {"tiny"}), changed("evaluate/at", [0.25, 1.0])
    one = {**spec["evaluate"], "protocols": ["linear"], "per_protocol": {}}
    spec["evaluate"] = [{**one, "methods": ["mae"]}, {**one, "methods": ["random", "jepa"], "seeds": [5], "at": [1.0]}]
    random, *learned = sweep.expand(checked(spec, HERE), opened)
    found = {r.config["method"]["name"]: (r.config["checkpoints"]["at"], {c["seed"] for c in r.evaluations.values()})
             for r in learned}
    assert found == {"mae": ([0.25], set(one["seeds"])), "jepa": ([], {5})}
    assert {c["seed"] for c in random.evaluations.values()} == {5}
    spec["evaluate"][0]["methods"] = ["random", "mea"]
    with pytest.raises(UserError, match="unknown method in .*evaluate.methods: 'mea'; did you mean 'mae'"):
        checked(spec, HERE)
    spec["evaluate"][0]["methods"] = ["mae", "mae"]
    with pytest.raises(UserError, match="evaluate.methods names mae twice"):
        checked(spec, HERE)
    for unnamed, named in (("mae", ["random", "jepa"]), ("random", ["jepa", "mae"])):
        with pytest.raises(UserError, match=f"the sweep evaluates {unnamed} in no way$"):
            sweep.expand(checked({**spec, "evaluate": [{**one, "methods": named}]}, HERE), opened)


def test_a_list_of_pretrainings_is_one_after_the_other(place: Callable[[str], Workspace]) -> None:
    opened, one = sweep.open_stores(place("a").work / "stores", {"tiny"}), SPEC["pretrain"]
    other = {**one, "methods": ["mae"], "per_method": {"mae": heads("mae")}, "seeds": [7], "grid": [{"optim.lr": [1e-3, 1e-2]}]}
    both, first, second = (sweep.expand(checked({**SPEC, "pretrain": sections}, HERE), opened)
                           for sections in ([one, other], one, [other]))
    assert both == first + second
    assert [(r.config["seed"], r.config["optim"]["lr"]) for r in second] == [(7, 1e-3), (7, 1e-2)]
    with pytest.raises(UserError, match="the sweep has one run twice: jepa, seed 0; .* two sections"):
        sweep.expand(checked({**SPEC, "pretrain": [one, one]}, HERE), opened)
    for bad, words in (([], "pretrain is an empty list"), ([one, 3], "has no section 'pretrain'"),
                       ([one, {**other, "seeds": []}], "pretrain.seeds is empty")):
        with pytest.raises(UserError, match=words):
            checked({**SPEC, "pretrain": bad}, HERE)


def test_an_empty_list_of_grids_is_no_grid(place: Callable[[str], Workspace]) -> None:
    opened = sweep.open_stores(place("a").work / "stores", {"tiny"})
    without, empty = (sweep.expand(checked(spec, HERE), opened) for spec in (SPEC, changed("pretrain/grid", [])))
    assert without == empty
    with pytest.raises(UserError, match="pretrain has no 'mix'"):
        checked({**SPEC, "pretrain": {**{k: v for k, v in SPEC["pretrain"].items() if k != "mix"}, "grid": []}}, HERE)


def test_each_encoder_that_is_trained_and_no_other_has_one_random_backbone(place: Callable[[str], Workspace]) -> None:
    opened, spec = sweep.open_stores(place("a").work / "stores", {"tiny"}), changed("evaluate/protocols", ["linear"])
    del spec["evaluate"]["per_protocol"]
    one = {**spec["pretrain"], "methods": ["mae", "random", "st_mem"], "grid": [{"encoder.registers": [1, 2]}],
           "per_method": {m: heads(m) for m in ("mae", "st_mem")}}
    one["set"]["encoder.patch"] = 25

    def encoders(*sections: dict[str, Any]) -> dict[bool, list[str]]:
        runs = sweep.expand(checked({**spec, "pretrain": list(sections)}, HERE), opened)
        return {random: [canonical(r.config["encoder"]) for r in runs if (r.config["method"]["name"] == "random") is random]
                for random in (True, False)}

    of = encoders(one, {**one, "methods": ["random", "mlae"], "per_method": {"mlae": heads("mlae")}})
    assert len(of[True]) == 4 and set(of[True]) == set(of[False])
    assert len(encoders({**one, "methods": ["random"], "grid": [], "per_method": {}})[True]) == 1
    one["per_method"]["random"] = {"encoder.patch": 50}
    with pytest.raises(UserError, match=r"per_method\.random sets encoder\.patch: random has the encoders of the other methods"):
        encoders(one)



def test_two_lists_of_evaluations_may_not_hold_the_same_one(place: Callable[[str], Workspace]) -> None:
    spec = changed("evaluate/protocols", ["linear", "finetune"])
    spec["evaluate"] = [spec["evaluate"]] * 2
    with pytest.raises(UserError, match="has one evaluation twice: linear"):
        sweep.expand(checked(spec, HERE), sweep.open_stores(place("a").work / "stores", {"tiny"}))


def test_what_is_fine_tuned_of_a_random_backbone_is_trained_from_scratch(place: Callable[[str], Workspace]) -> None:
    opened = sweep.open_stores(place("a").work / "stores", {"tiny"})
    spec = changed("evaluate/protocols", ["linear", "knn", "finetune", "finetune-after-linear", "scratch"])
    spec["evaluate"]["seeds"], spec["evaluate"]["set"]["evaluation.warmup_steps"] = [0, 1], 0
    spec["evaluate"]["per_protocol"] = {"finetune": {"evaluation.lr": 0.5}, "scratch": {"evaluation.lr": 0.5},
                                        "linear": {"evaluation.lr": 0.25}}
    random, jepa, *_ = sweep.expand(checked(spec, HERE), opened)
    names = [[c["evaluation"]["name"] for c in run.evaluations.values()] for run in (random, jepa)]
    assert names[0] == ["linear"] * 2 + ["knn"] * 2 + ["scratch"] * 2
    assert names[1] == ["linear"] * 2 + ["knn"] + ["finetune"] * 2 + ["finetune-after-linear"] * 2
    configs = {(run.config["method"]["name"], c["evaluation"]["name"], c["seed"]): c
               for run in (random, jepa) for c in run.evaluations.values()}
    assert configs["random", "scratch", 0]["evaluation"]["lr"] == 0.5
    linear, after = configs["jepa", "linear", 1], configs["jepa", "finetune-after-linear", 1]
    assert derive_linear(after) == linear  # the sweep's own linear evaluation is what it starts from


def test_a_store_resampled_by_another_method_than_the_config_s_is_refused(tmp_path) -> None:
    at_100, at_200 = (corpora.store(tmp_path / str(hz), noise(2, 12, 400), at_hz=hz) for hz in (100, 200))
    made = {"data": {"mix": {"a": 1.0}, "rate_hz": 200, "resampling": "periodic"}}
    with pytest.raises(UserError, match="store a was resampled by fourier, data.resampling is periodic"):
        fill_fingerprints(made, {"a": at_200})
    made["data"]["rate_hz"] = 100  # as published: no method was used
    assert fill_fingerprints(made, {"a": at_100})["data"]["fingerprints"] == {"a": at_100.fingerprint}


def test_what_a_random_backbone_does_not_use_is_no_part_of_its_name(place: Callable[[str], Workspace]) -> None:
    opened = sweep.open_stores(place("a").work / "stores", {"tiny"})
    names = [sweep.expand(checked(changed("pretrain/set/optim.lr", lr), HERE), opened) for lr in (1e-3, 1e-2)]
    assert names[0][0].run_id == names[1][0].run_id
    assert names[0][1].run_id != names[1][1].run_id


def test_a_weight_of_1_and_of_1_0_name_the_same_runs(place: Callable[[str], Workspace]) -> None:
    opened = sweep.open_stores(place("a").work / "stores", {"tiny"})
    a, b = (sweep.expand(checked(changed("pretrain/mix", {"tiny": w}), HERE), opened) for w in (1, 1.0))
    assert [r.run_id for r in a] == [r.run_id for r in b]


@pytest.mark.parametrize("path", sorted((ROOT / "slurm" / "sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_the_sweeps_that_come_with_the_suite_are_valid_and_as_large_as_they_say(path: Path,
                                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    spec, text = sweep.read_sweep(path), path.read_text().replace(",", "")
    monkeypatch.setattr(sweep, "fill_fingerprints", lambda made, stores: made)
    monkeypatch.setattr(sweep, "check", lambda run, stores, seen: build_model(run.config))
    names = {then["store"] for then in spec["evaluate"]}
    with torch.device("meta"):
        runs = sweep.expand(spec, {name: SimpleNamespace(name=name, fingerprint="0") for name in names})  # type: ignore[misc]
    assert text.startswith("# ")
    if path.name != "demo.yaml":
        assert f" {len(runs)} pre-trainings" in text and f" {sum(len(r.evaluations) for r in runs)} evaluations" in text


def test_an_evaluation_starts_only_after_its_pretraining(place: Callable[[str], Workspace],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Any] = []
    pretrain, evaluate = sweep.pretrain, evaluation.evaluate
    monkeypatch.setattr(sweep, "pretrain", lambda *a: order.append(pretrain(*a)))
    monkeypatch.setattr(evaluation, "evaluate", lambda *a: order.append(evaluate(*a)))
    runs, _ = run({**SPEC, "pretrain": {**SPEC["pretrain"], "methods": ["random"], "per_method": {}}}, place("a"))
    assert order == [runs[0].run_id, list(runs[0].evaluations)]
