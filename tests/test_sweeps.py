"""A sweep runs what has no result, is checked before anything runs, and may be interrupted anywhere."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import configs
import corpora
import pytest
import torch
import yaml
from conftest import heads
from corpora import noise

from bench import sweeps
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.core.interrupt import Interrupted
from bench.core.models import canonical
from bench.core.yaml import Document
from bench.data.store import Store
from bench.evaluation.protocols import derive_linear
from bench.report.reproduction import MACHINE, MACHINE_CURVES
from bench.runs.config import find_methods
from bench.runs.source import hash_source
from bench.runs.workspace import Workspace
from bench.sweeps import Pretraining
from bench.training import optim
from bench.training.inputs import fill_fingerprints

Spec = dict[str, Any]
SPEC: Spec = {
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
HERE = Path("spec.yaml")  # as messages name it


def replace(path: str, value: object, spec: Spec = SPEC) -> Spec:
    """A copy of spec with one key (a/b/c) set."""
    node = spec = json.loads(json.dumps(spec))
    *parents, leaf = path.split("/")
    for key in parents:
        node = node.setdefault(key, {})
    node[leaf] = value
    return spec


def of_methods(*methods: str, **pretrain: Any) -> Spec:
    """SPEC with these methods alone, and with other changes of its section `pretrain`."""
    section = {**SPEC["pretrain"], "methods": [*methods], "per_method": {m: heads(m) for m in methods if m != "random"}}
    return {**SPEC, "pretrain": {**section, **pretrain}}


def parse(spec: Spec) -> sweeps.Sweep:
    return sweeps.parse_sweep(Document(HERE, spec, {}))


@pytest.fixture
def expand(tiny: Store, nano: object) -> Callable[[Spec], list[Pretraining]]:
    """The runs of a sweep on the store `tiny`."""
    return lambda spec: sweeps.expand(parse(spec), {"tiny": tiny})


@pytest.fixture
def place(tmp_path: Path, stores: Path, nano: object) -> Callable[[str], Workspace]:
    """A workspace of that name with the store `tiny` in it."""

    def make(name: str) -> Workspace:
        (tmp_path / name).mkdir()
        (tmp_path / name / "stores").symlink_to(stores)
        return Workspace(tmp_path / name, tmp_path / name / "results", torch.device("cpu"), save_steps=2)

    return make


def run(spec: Spec, workspace: Workspace) -> tuple[list[Pretraining], str]:
    path, lines = workspace.work / "spec.yaml", list[str]()
    path.write_text(yaml.safe_dump(spec))
    return sweeps.run_sweep(path, workspace, lines.append), lines[0]


def read_files(workspace: Workspace) -> dict[str, tuple[int, bytes]]:
    """Every file of the workspace with its time and bytes."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in workspace.work.rglob("*") if p.is_file()
            and p.name != "spec.yaml"}


def read_results(folder: Path) -> dict[str, Any]:
    """Every result without what the clock and the machine decide."""
    results = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for each in results.values():
        del each["provenance"]
        for key in MACHINE:
            each["result"].pop(key, None)
        for key in MACHINE_CURVES:
            each["result"].get("curves", {}).pop(key, None)
    return results


def test_a_sweep_runs_every_combination_that_has_no_result_and_the_second_time_nothing(place: Callable[[str], Workspace]) -> None:
    workspace = place("a")
    run(of_methods("jepa", seeds=[0]), workspace)
    before = read_files(workspace)
    runs, line = run(SPEC, workspace)
    assert line == "spec.yaml: 5 pre-trainings, 10 evaluations; 3 of 15 already done"
    assert read_files(workspace).items() >= before.items()
    assert [r.config.method.name for r in runs] == ["random", "jepa", "jepa", "mae", "mae"]  # random has no seeds
    assert [r.config.seed for r in runs] == [0, 0, 1, 0, 1]
    assert {p.stem for p in workspace.results.iterdir()} == {name for r in runs for name in (r.run_id, *r.evaluations)}
    before = read_files(workspace)
    assert len(before) > 40
    assert run(SPEC, workspace)[1].endswith("15 of 15 already done")
    assert read_files(workspace) == before


@pytest.mark.parametrize("step", [1, 6, 11])
def test_an_interrupted_sweep_repeated_gives_what_an_uninterrupted_one_gives(
        place: Callable[[str], Workspace], step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = of_methods("random", "jepa", seeds=[0])
    straight, broken = place("straight"), place("broken")
    run(spec, straight)
    schedule, calls = optim.schedule_, []

    def send_signal(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return schedule(*arguments)

    with monkeypatch.context() as m:
        m.setattr(optim, "schedule_", send_signal)
        with pytest.raises(Interrupted, match="the same command continues"):
            run(spec, broken)
    assert 0 < len(list(broken.results.iterdir())) < 6
    run(spec, broken)
    assert read_results(broken.results) == read_results(straight.results)
    assert len(read_results(broken.results)) == 6


@pytest.mark.parametrize(("path", "value", "words"), [
    ("pretrani", {}, "unknown key 'pretrani'; did you mean 'pretrain'"),
    ("pretrain/mix", {"tyni": 1.0}, "no store 'tyni' in .*Known: tiny"),
    ("pretrain/set/optim.stesp", 3, r"unknown key 'optim.stesp'; did you mean 'optim.steps'.* line \d+\)"),
    ("pretrain/per_method/mae/method.decoder", {"width": 9, "heads": 2}, "width 9 does not divide into 2 heads"),
    ("evaluate/tasks", ["pitch", "pich"], "unknown task 'pich'; did you mean 'pitch'"),
    ("evaluate/protocols", ["linear", "finetune", "kn"], r"unknown protocol 'kn'.* line \d+\)"),
    ("evaluate/set/folds.test", [12], r"folds\.test is \[12\], but store tiny has no record"),
])
def test_a_mistake_in_a_sweep_is_one_line_before_anything_runs(place: Callable[[str], Workspace], path: str, value: object,
                                                               words: str) -> None:
    workspace = place("a")
    with pytest.raises(UserError, match=words) as caught:
        run(replace(path, value), workspace)
    assert "\n" not in str(caught.value)
    assert not (workspace.work / "runs").exists() and not workspace.results.exists()


def test_a_sweep_with_a_result_of_other_code_is_refused_until_what_it_left_is_moved(
        place: Callable[[str], Workspace], command: Callable[..., tuple[int, str, str]]) -> None:
    workspace, spec = place("a"), of_methods("random", "jepa", seeds=[0])
    (_, jepa), _ = run(spec, workspace)
    path = workspace.results / f"{jepa.run_id}.json"
    path.write_text(path.read_text().replace(hash_source(find_methods()["jepa"]), "0" * 12))
    before = read_files(workspace)
    for words in (["run"], ["run", "--local"], ["plan"], ["submit", "--cluster", "test"]):
        code, _, error = command("sweep", *words, workspace.work / "spec.yaml", "--work", workspace.work, "--results",
                                 workspace.results)
        assert code == 2
        assert re.fullmatch(f"ecgssl: THE CODE OF METHOD jepa HAS CHANGED since {path} was made .* delete or move.*\n", error)
    assert read_files(workspace) == before
    for name in (jepa.run_id, *(each.name for each in (workspace.work / "runs" / jepa.run_id / "evaluations").iterdir())):
        (workspace.results / f"{name}.json").unlink(missing_ok=True)
    shutil.rmtree(workspace.work / "runs" / jepa.run_id)
    assert run(spec, workspace)[1].endswith("3 of 6 already done")


def test_a_section_may_be_of_some_methods_alone_and_pretrainings_follow_one_another(
        expand: Callable[[Spec], list[Pretraining]]) -> None:
    one = {**SPEC["evaluate"], "at": [0.25, 1.0], "protocols": ["linear"], "per_protocol": {}}
    random, *learned = expand({**SPEC, "evaluate": [
        {**one, "methods": ["mae"]}, {**one, "methods": ["random", "jepa"], "seeds": [5], "at": [1.0]}]})
    assert {r.config.method.name: (r.config.checkpoints.at, {c.seed for c in r.evaluations.values()}) for r in learned} == {
        "mae": ((0.25,), {0}), "jepa": ((), {5})}
    assert {c.seed for c in random.evaluations.values()} == {5}
    first, other = SPEC["pretrain"], of_methods("mae", seeds=[7], grid=[{"optim.lr": [1e-3, 1e-2]}])["pretrain"]
    assert expand({**SPEC, "pretrain": [first, other]}) == expand(SPEC) + expand({**SPEC, "pretrain": other})
    for section, value, words in (("evaluate", [{**one, "methods": ["random", "jepa"]}], "the sweep has no evaluation of mae$"),
                                  ("evaluate", [one, one], "has one evaluation twice: linear"),
                                  ("pretrain", [first, first], "one run twice: jepa, seed 0; .* two sections")):
        with pytest.raises(UserError, match=words):
            expand({**SPEC, section: value})


def test_a_grid_is_every_combination_of_its_values_and_an_empty_list_is_no_grid(
        expand: Callable[[Spec], list[Pretraining]]) -> None:
    grid = [{"optim.lr": [1e-3, 1e-2], "data.mix": [{"tiny": 1}], "encoder.patch": [25, 50]}]
    spec = replace("pretrain/mix", None, of_methods("random", "mae", grid=grid))
    spec["evaluate"]["grid"] = [{"evaluation.lr": [1e-3, 1e-4]}, {"evaluation.lr": [1e-5]}]
    runs = expand(spec)
    assert len(runs) == 2 + 2 * 4  # a random backbone has no learning rate, nor seeds
    assert {(r.config.optim.lr, r.config.encoder.patch) for r in runs if r.config.method.name == "mae"} == {
        (1e-3, 25), (1e-3, 50), (1e-2, 25), (1e-2, 50)}
    assert all(len(r.evaluations) == 2 * 3 for r in runs)
    assert expand(replace("pretrain/grid", [])) == expand(SPEC)


def test_each_encoder_that_is_trained_and_no_other_has_one_random_backbone(
        expand: Callable[[Spec], list[Pretraining]]) -> None:
    spec = replace("evaluate/per_protocol", {}, replace("evaluate/protocols", ["linear"]))
    one = of_methods("mae", "random", "st_mem", grid=[{"encoder.registers": [1, 2]}],
                     set=SPEC["pretrain"]["set"] | {"encoder.patch": 25})["pretrain"]

    def encoders(*sections: Spec) -> dict[bool, list[str]]:
        runs = expand({**spec, "pretrain": list(sections)})
        return {random: [canonical(r.config.encoder) for r in runs if (r.config.method.name == "random") is random]
                for random in (True, False)}

    of = encoders(one, {**one, "methods": ["random", "mlae"], "per_method": {"mlae": heads("mlae")}})
    assert len(of[True]) == 4 and set(of[True]) == set(of[False])
    one["per_method"]["random"] = {"encoder.patch": 50}
    with pytest.raises(UserError, match=r"per_method\.random sets encoder\.patch: random has the encoders of the other methods"):
        encoders(one)


def test_what_is_fine_tuned_of_a_random_backbone_is_trained_from_scratch(expand: Callable[[Spec], list[Pretraining]]) -> None:
    spec = replace("evaluate/protocols", ["linear", "knn", "finetune", "finetune-after-linear", "scratch"])
    spec["evaluate"]["seeds"], spec["evaluate"]["set"]["evaluation.warmup_steps"] = [0, 1], 0
    spec["evaluate"]["per_protocol"] = {"finetune": {"evaluation.lr": 0.5}, "scratch": {"evaluation.lr": 0.5},
                                        "linear": {"evaluation.lr": 0.25}}
    random, jepa, *_ = expand(spec)
    names = [[c.evaluation.name for c in each.evaluations.values()] for each in (random, jepa)]
    assert names[0] == ["linear"] * 2 + ["knn"] * 2 + ["scratch"] * 2
    assert names[1] == ["linear"] * 2 + ["knn"] + ["finetune"] * 2 + ["finetune-after-linear"] * 2
    assert {c.evaluation.lr for c in random.evaluations.values() if c.evaluation.name == "scratch"} == {0.5}
    evaluations = list(jepa.evaluations.values())  # what finetune-after-linear starts from is the sweep's own linear evaluation
    assert [derive_linear(c) for c in evaluations[-2:]] == evaluations[:2]


def test_a_store_resampled_by_another_method_than_the_config_s_is_refused(tmp_path: Path, nano: object) -> None:
    store = corpora.store(tmp_path, noise(2, 12, 400), at_hz=200)
    config = configs.load("jepa", ["data.mix={a: 1.0}", "data.rate_hz=200", "data.resampling=periodic"])
    with pytest.raises(UserError, match="store a was resampled by fourier, data.resampling is periodic"):
        fill_fingerprints(config, {"a": store})


@pytest.mark.parametrize("path", sorted((ROOT / "slurm" / "sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_the_sweeps_that_come_with_the_suite_are_valid_without_stores_and_as_large_as_they_say(path: Path, tmp_path: Path
                                                                                             ) -> None:
    text = " ".join(path.read_text().replace(",", "").replace("#", " ").split())
    runs, missing = sweeps.preview_sweep(path, tmp_path)
    assert missing == sweeps.list_stores(sweeps.read_sweep(path))
    if path.name != "demo.yaml":
        assert f" {len(runs)} pre-trainings" in text and f" {sum(len(r.evaluations) for r in runs)} evaluations" in text
