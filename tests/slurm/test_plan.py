"""What a sweep submits: every run once, few arrays, evaluations after their pre-training; and what state runs are in."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_slurm import HOSTILE, outcome, processes, until
from test_slurm import SPEC as REAL
from test_sweeps import SPEC, changed

from bench import sweeps as sweep
from bench.core.errors import UserError
from bench.runs import config, provenance
from bench.runs import results as record
from bench.runs.config import ROOT
from bench.runs.workspace import Workspace
from slurm import cluster, commands, cost, lease, plan, snapshot, status, submit
from slurm.cluster import Cluster
from slurm.commands import Task
from slurm.plan import Run
from slurm.shared import Shared, parked, tail

ASKED = "all: {partition: p, time: '01:00:00', memory: 1G, cpus: 1}"


@pytest.fixture
def shared(tmp_path: Path, stores: Path, nano: object) -> Shared:
    (tmp_path / "stores").symlink_to(stores)
    (tmp_path / "results").mkdir()
    return Shared(tmp_path, tmp_path / "results")


def graph(shared: Shared, spec: dict[str, Any] = SPEC) -> dict[str, Run]:
    (shared.work / "s.yaml").write_text(yaml.safe_dump(spec))
    return plan.graph(sweep.load_sweep(shared.work / "s.yaml", shared.work)[0])


def asked(tmp_path: Path, text: str = "") -> Cluster:
    path = tmp_path / "c.yaml"
    path.write_text(f"runs:\n  {ASKED}\n  {text}\n")
    return cluster.read(path)


class Queue:
    """A cluster that takes everything: what sbatch was given, and its queue."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, largest: int = 1001):
        self.calls: list[list[str]] = []
        self.tasks: list[Task] = []
        self.largest = largest
        monkeypatch.setattr(commands, "call", self.call)
        monkeypatch.setattr(commands, "queue", lambda: list(self.tasks))
        monkeypatch.setattr(commands, "ended", dict)

    def call(self, *command: str) -> str:
        if command[0] == "scontrol":
            return f"MaxArraySize            = {self.largest}\n"
        if command[0] == "scancel":
            self.tasks = [task for task in self.tasks if task.name not in command]
            return ""
        assert command[0] == "sbatch"
        self.calls.append(list(command))
        options = dict(option.removeprefix("--").partition("=")[::2] for option in command[1:-1])
        for part in options["array"].partition("%")[0].split(","):
            first, _, last = part.partition("-")
            for i in range(int(first), int(last or first) + 1):
                self.tasks.append(Task(str(len(self.calls)), i, "PENDING", "", "Priority", options["job-name"][4:]))
        return f"{len(self.calls)}\n"


def carried(shared: Shared, task: Task) -> list[str]:
    return list(itertools.chain(*shared.tasks(task.token)[task.index]))


def submitted(shared: Shared, queue: Queue) -> Counter[str]:
    return Counter(run for task in queue.tasks for run in carried(shared, task))


def finish(shared: Shared, run: str, kind: str = "pretrain") -> None:
    record.write(shared.results, {"kind": kind, "run_id": run, "config": {}, "result": {"seconds": 1.0}})


@pytest.mark.parametrize("pack", [1, 3, 100])
def test_every_run_is_submitted_once_and_each_evaluation_after_its_pretraining(
        shared: Shared, monkeypatch: pytest.MonkeyPatch, pack: int) -> None:
    queue, runs = Queue(monkeypatch), graph(shared, changed("evaluate/seeds", [0, 1, 2, 3]))
    submit.submit(runs, shared, asked(shared.work, f"evaluate: {{pack: {pack}}}"), "s")
    assert submitted(shared, queue) == Counter(list(runs))
    pretrained = {run: (task.job, task.index) for task in queue.tasks
                  for run in carried(shared, task) if not runs[run].pretrain}
    for task in queue.tasks:
        command = queue.calls[int(task.job) - 1]
        for run in carried(shared, task):
            if runs[run].pretrain:
                job, index = pretrained[runs[run].pretrain]
                assert f"--dependency=aftercorr:{job}" in command and "--kill-on-invalid-dep=yes" in command
                assert task.index == index
    submit.submit(runs, shared, asked(shared.work), "s")
    assert submitted(shared, queue) == Counter(list(runs))


def test_the_number_of_sbatch_calls_does_not_grow_with_the_runs(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name, seeds in (("few", 2), ("many", 60)):
        here = Shared(shared.work / name, shared.results)
        queue = Queue(monkeypatch)
        (here.work / "stores").parent.mkdir()
        (here.work / "stores").symlink_to((shared.work / "stores").resolve())
        spec = changed("pretrain/seeds", list(range(seeds)))
        spec["evaluate"]["seeds"] = list(range(12))
        submit.submit(graph(here, spec), here, asked(here.work), "s")
        calls.append(len(queue.calls))
    assert calls[0] == calls[1] <= 1 + plan.ARRAYS


def test_an_array_is_no_larger_than_the_cluster_takes(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, runs = Queue(monkeypatch, largest=3), graph(shared)
    submit.submit(runs, shared, asked(shared.work), "s")
    assert submitted(shared, queue) == Counter(list(runs))
    assert max(task.index for task in queue.tasks) < 3


def test_new_evaluations_of_a_queued_pretraining_wait_for_it(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(monkeypatch)
    submit.submit(graph(shared), shared, asked(shared.work), "s")
    before = len(queue.calls)
    runs = graph(shared, changed("evaluate/seeds", [0, 5]))
    submit.submit(runs, shared, asked(shared.work), "s")
    assert submitted(shared, queue) == Counter(list(runs))
    assert len(queue.calls) > before and all("--dependency=aftercorr:1" in call for call in queue.calls[before:])


def test_evaluations_of_finished_pretrainings_are_packed_across_them(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, runs = Queue(monkeypatch), graph(shared)
    for run in runs.values():
        if not run.pretrain:
            finish(shared, run.name)
    submit.submit(runs, shared, asked(shared.work, "evaluate: {pack: 4}"), "s")
    assert len(queue.calls) == 1 and len(queue.tasks) == 3  # ten evaluations
    assert not any("--dependency" in option for option in queue.calls[0])


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("jobs", [1, 2, 3, 100])
def test_the_evaluations_of_a_local_sweep_are_work_for_all_its_jobs(shared: Shared, finished: bool, jobs: int) -> None:
    runs = graph(shared)
    for run in runs.values():
        if finished and not run.pretrain:
            finish(shared, run.name)
    plan.look(runs, shared, None)
    made = [array for array in plan.arrays(runs, submit.local(1), 1000, at_once=jobs).arrays if array.kind == "evaluate"]
    assert sum(array.runs() for array in made) == sum(bool(run.pretrain) for run in runs.values())
    tasks = [units for array in made for units in array.tasks.values()]
    assert max(map(len, tasks)) <= -(-sum(map(len, tasks)) // jobs)


@pytest.mark.parametrize("jobs", [1, 2, 7])
@pytest.mark.parametrize("pack", [1, 4, 20])
def test_packs_are_no_more_rounds_than_they_must_be_and_end_together(pack: int, jobs: int) -> None:
    for units in range(1, 100):
        size = plan.share(units, pack, jobs)
        tasks = list(map(len, plan.chunks([None] * units, size)))
        rounds = -(-len(tasks) // jobs)
        assert 1 <= max(tasks) == size <= pack and rounds <= -(-units // (pack * jobs))
        assert rounds * size < units / jobs + rounds  # as long as if all were shared evenly


def test_a_refusal_in_the_middle_leaves_nothing_that_submit_does_not_complete(
        shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, runs = Queue(monkeypatch), graph(shared)
    call = queue.call

    def refuse(*command: str) -> str:
        if command[0] == "sbatch" and len(queue.calls) == 1:
            raise UserError("sbatch refuses: no")
        return call(*command)

    with monkeypatch.context() as m:
        m.setattr(commands, "call", refuse)
        with pytest.raises(UserError, match="sbatch refuses: no"):
            submit.submit(runs, shared, asked(shared.work), "s")
    assert submitted(shared, queue) == Counter([run for run in runs if not runs[run].pretrain])
    submit.submit(runs, shared, asked(shared.work), "s")
    assert submitted(shared, queue) == Counter(list(runs))


def test_two_submits_at_once_are_one_after_the_other(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    Queue(monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with submit.alone(shared, 1), pytest.raises(UserError, match="another `submit` works on .*pid"):
        submit.submit(graph(shared), shared, asked(shared.work), "s")


@pytest.mark.parametrize("name", ["100%", "back\\slash"])
def test_a_folder_in_which_slurm_cannot_write_a_log_is_refused(shared: Shared, name: str) -> None:
    with pytest.raises(UserError, match="choose a work folder without"):
        submit.submit({}, Shared(shared.work / name, shared.results), asked(shared.work), "s")


def test_a_run_s_state_comes_from_records_leases_failures_and_the_queue(shared: Shared) -> None:
    runs = graph(shared, {**SPEC, "pretrain": {**SPEC["pretrain"], "methods": ["jepa"], "seeds": list(range(8)), "per_method": {
        "jepa": SPEC["pretrain"]["per_method"]["jepa"]}}})
    done, running, turn, lost, failed, parked_, waiting, missing = (run for run in runs.values() if not run.pretrain)
    finish(shared, done.name)
    holder = lease.Holder(shared.leases, log="ab12/logs/3.log")
    holder.take([running.name, turn.name])
    dead = lease.Holder(shared.leases, log="ab12/logs/2.log")
    dead.take([lost.name])
    dead.path.write_text(dead.path.read_text().replace(f'"born": {lease.born(os.getpid())}', '"born": 1'))
    shared.note(failed.name, "a\nreason", job="1", node="n1")
    for _ in range(3):
        shared.note(parked_.name, "the same")
    folder = shared.submissions / "ab12"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps({"tasks": {"4": [[waiting.name]], "3": [[running.name], [turn.name]]}}))
    plan.look(runs, shared, [Task("9", 4, "PENDING", "", "Resources", "ab12"), Task("8", 0, "PENDING", "", "", "cd34")])
    assert [run.state for run in (done, running, turn, lost, failed, parked_, waiting, missing)] == [
        "done", "running", "waiting", "lost", "failed", "parked", "waiting", "missing"]
    assert (failed.reason, failed.node, waiting.reason) == ("a reason", "n1", "Resources")
    assert "vanished" in lost.reason
    assert (missing.reason, turn.reason) == ("", plan.TURN)
    assert {run.state for run in runs.values() if run.pretrain in (failed.name, parked_.name)} == {"blocked"}
    assert {run.state for run in runs.values() if run.pretrain in (lost.name, done.name)} == {"missing"}
    text = status.page(runs, shared, "<s>")
    assert "&lt;s&gt;" in text and all(name in text for name in (failed.name, "a reason", "its pre-training"))
    assert status.summary(runs, shared).startswith("24 runs: 1 done, 1 running, 2 waiting, 1 failed, 1 parked, 4 blocked, 1 lost")


def test_a_job_that_ended_before_its_worker_began_says_its_last_line(shared: Shared) -> None:
    runs = graph(shared)
    name = next(iter(runs))
    folder = shared.submissions / "ab12"
    (folder / "logs").mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps({"tasks": {"4": [[name]]}}))
    (folder / "logs" / "4.log").write_text("loading\nbash: module: command not found\n\n")
    plan.look(runs, shared, [])
    assert runs[name].state == "missing" and runs[name].reason == "its job ended: bash: module: command not found"


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_submitted(
        shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(monkeypatch)
    (shared.work / "slurm").write_text("in the way")
    with pytest.raises(UserError, match="cannot write into .*slurm"):
        submit.submit(graph(shared), shared, asked(shared.work), "s")
    assert queue.calls == []


def test_an_evaluation_that_comes_before_its_pretraining_is_no_failure_of_its(shared: Shared) -> None:
    """A job may run though the one that it waits for has not: Slurm has forgotten that one, say."""
    runs = graph(shared)
    early = [run for run in runs.values() if run.pretrain][:2]
    array = plan.Array("evaluate", {0: [[run.config] for run in early]})
    folder = submit.prepare(array, shared, asked(shared.work), "s", ROOT, 10.0)
    command = [sys.executable, "-m", "slurm.work", folder, "0"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1 and "its pre-training has no record" in done.stderr
    plan.look(runs, shared, None)
    assert {run.state for run in early} == {"missing"}
    assert not any(shared.leases.iterdir())


def test_a_run_parks_after_three_failures_for_one_reason_whatever_the_numbers_in_it() -> None:
    notes = [{"reason": f"the loss of step {i} is nan"} for i in range(3)]
    assert parked(notes)
    assert not parked(notes[:2])
    assert not parked([*notes[:2], {"reason": "another"}])
    assert not parked([*notes, {"reason": "another"}])


def test_the_cost_is_what_like_runs_took_or_is_unknown(shared: Shared) -> None:
    runs = graph(shared)
    jepa = [run for run in runs.values() if not run.pretrain and run.method == "jepa"]
    record.write(shared.results, {"kind": "pretrain", "run_id": jepa[0].name, "config": jepa[0].config, "provenance": {},
                                  "result": {"seconds": 3600.0, "records": 16, "curves": {}, "monitor": {}}})
    plan.look(runs, shared, [])
    found = cost.estimate(runs, shared.results, asked(shared.work, "pretrain: {gpus: 2, nodes: 3, cpus: 5}"))
    assert found["pretrain"].gpu_hours == pytest.approx(6)  # the other jepa
    assert found["pretrain"].cpu_hours == pytest.approx(30)
    assert found["pretrain"].unknown == 2  # mae
    assert found["evaluate"].unknown == 10


@pytest.mark.parametrize(("text", "words"), [
    ("runs: 3", r"'runs' must be a dict, got 3 \(.* line 1\)"),
    ("work: /x", "has no 'runs'"),
    ("setpu: []\nruns: {}", r"unknown key .*'setpu'; did you mean 'setup'\? .*\(.*line 1\)"),
    ("runs:\n  all: {}\n  evalute: {}", r"unknown kind .*'evalute'; did you mean 'evaluate'\? .*line 3\)"),
    ("runs:\n  all:\n    partitoin: x", r"'partitoin'; did you mean 'partition'\? .*line 3\)"),
    ("runs:\n  all: {partition: p, time: 1:00:00}", 'time must be in quotes, e.g. "01:00:00"'),
    ("runs:\n  all: {partition: p, memory: 1G, cpus: 1}", "has no 'time'; give it there or for all"),
    (f"runs:\n  {ASKED}\n  evaluate: {{nodes: 2}}", "an evaluation is one process"),
    (f"runs:\n  {ASKED}\n  pretrain: {{pack: 2}}", "pack must be 1"),
    (f"runs:\n  {ASKED}\n  pretrain-b: {{time: soon}}", "time must be like"),
    (f"runs:\n  {ASKED}\n  pretrain-b: {{nodes: 0}}", r"runs.pretrain-b.nodes must be 1 or more, got 0"),
    (f"setup: [3]\nruns:\n  {ASKED}", "setup must be a list of lines of bash"),
])
def test_a_bad_cluster_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        cluster.read(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(cluster.FOLDER.glob("*.yaml")), ids=lambda p: p.name)
def test_the_clusters_that_come_with_the_suite_are_valid(path: Path) -> None:
    assert set(cluster.read(path).asked) >= {"pretrain", "evaluate"}
    assert path.read_text().startswith("# ")


def test_a_cluster_that_is_none_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown cluster 'tset'; did you mean 'test'"):
        cluster.find("tset")


@pytest.mark.parametrize(("path", "value", "line"), [
    ("pretrain/metods", ["jepa"], "  metods:"), ("pretrain/set/optim.stesp", 3, "    optim.stesp: 3"),
    ("pretrain/seeds", [], "  seeds: []"), ("evaluate/tasks", ["pich"], "  - pich")])
def test_a_typo_in_a_sweep_has_its_line(shared: Shared, path: str, value: object, line: str) -> None:
    text = yaml.safe_dump(changed(path, value))
    (shared.work / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"line {text.splitlines().index(line) + 1}\)$"):
        sweep.load_sweep(shared.work / "s.yaml", shared.work)


@pytest.mark.parametrize(("key", "value", "words"), [
    ("pretrain/seeds", [1, 1], "one run twice"), ("evaluate/seeds", [0, 0], "one evaluation twice"),
    ("pretrain/grid", {"optim.lr": [1e-3]}, "grid must be a list"), ("pretrain/grid", [3], "must be a list of mappings"),
    ("pretrain/grid", [{"optim.lr": []}], "must be a list of values, one at least"),
    ("pretrain/grid", [{"optim.lr": [1e-3, 1e-3]}], "one run twice"),
    ("pretrain/grid", [{"optim.lrr": [1e-3]}], "unknown key 'optim.lrr'; did you mean 'optim.lr'"),
    ("pretrain/grid", [{"data.mix": ["al"]}], "unknown mixture 'al'; did you mean 'all'")])
def test_a_grid_with_a_mistake_is_one_line(shared: Shared, key: str, value: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        graph(shared, changed(key, value))


def test_a_grid_is_every_combination_of_its_values(shared: Shared) -> None:
    spec = changed("pretrain/grid", [{"optim.lr": [1e-3, 1e-2], "data.mix": [{"tiny": 1}], "encoder.patch": [25, 50]}])
    del spec["pretrain"]["mix"]
    spec["evaluate"]["grid"] = [{"evaluation.lr": [1e-3, 1e-4]}, {"evaluation.lr": [1e-5]}]
    runs = graph(shared, spec)
    first = [run for run in runs.values() if not run.pretrain]
    assert len(first) == 2 + 2 * 2 * 4  # a random backbone has no learning rate, nor seeds
    assert {(r.config["optim"]["lr"], r.config["encoder"]["patch"]) for r in first if r.method == "mae"} == {
        (1e-3, 25), (1e-3, 50), (1e-2, 25), (1e-2, 50)}
    assert len(runs) - len(first) == len(first) * 2 * 3


def test_a_copy_of_the_code_is_whole_and_named_by_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = snapshot.take(tmp_path / "code")
    assert snapshot.take(tmp_path / "code") == a
    assert [p.name for p in (tmp_path / "code").iterdir()] == [a.name]
    for part in snapshot.PARTS:
        assert {p.relative_to(ROOT) for p in (ROOT / part).rglob("*") if p.suffix in snapshot.SUFFIXES} == {
            p.relative_to(a) for p in (a / part).rglob("*") if p.is_file()}
    assert json.loads((a / provenance.SNAPSHOT).read_text()) == provenance.code()
    monkeypatch.setattr(config, "ROOT", a)
    monkeypatch.setattr(provenance, "ROOT", a)
    (a / "bench" / "vit.py").write_text("changed")
    b = snapshot.take(tmp_path / "code")
    assert b.name != a.name and (b / "bench" / "vit.py").read_text() == "changed"


def test_methods_from_outside_are_in_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    (tmp_path / "mine.yaml").write_text("method: {name: mine}\n")
    monkeypatch.setenv(config.METHODS, str(tmp_path))
    assert (snapshot.take(tmp_path / "code") / "methods" / "mine.py").read_text() == "x = 1\n"


def test_the_log_of_the_newest_attempt_is_followed_to_its_end(tmp_path: Path) -> None:
    shared, said = Shared(tmp_path, tmp_path), list[str]()
    rounds = iter(range(10))

    def log(token: str, text: str, when: int) -> None:
        path = shared.log(token, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parents[1] / "submission.json").write_text(json.dumps({"tasks": {"0": [["run"]]}}))
        with path.open("a") as f:
            f.write(text)
        os.utime(path, (when, when))

    def over() -> bool:
        now = next(rounds)
        log("a1" if now < 2 else "b2", f"{now}\n", now)
        return now == 3

    status.follow("run", shared, over, said.append, poll_seconds=0)
    assert "".join(said) == "0\n1\n2\n3\n"


def test_ranges_of_indices_are_as_short_as_slurm_reads_them() -> None:
    assert submit.ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10"


def test_sbatch_is_asked_for_what_the_file_says(tmp_path: Path) -> None:
    made = asked(tmp_path, "pretrain-b: {nodes: 2, gpus: 4, account: a, qos: q, constraint: c}")
    assert made.asked["pretrain-b"].options() == [
        "--partition=p", "--time=01:00:00", "--mem=1G", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=1",
        "--signal=B:USR2@120", "--gpus-per-node=4", "--account=a", "--qos=q", "--constraint=c"]


def kinds(made: Cluster, runs: dict[str, Run]) -> set[str]:
    return {made.kind(run.config) for run in runs.values()}


def test_a_run_is_of_the_kind_that_describes_it_most_closely(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: dict[str, Run] = graph(shared)
    assert kinds(asked(shared.work), runs) == {"pretrain", "evaluate"}
    assert kinds(asked(shared.work, "evaluate-finetune: {cpus: 2}"), runs) == {"pretrain", "evaluate", "evaluate-finetune"}
    assert kinds(asked(shared.work, "pretrain-nano: {cpus: 2}"), runs) == {"pretrain-nano", "evaluate"}


@pytest.mark.slow
def test_a_sweep_run_by_workers_here_gives_what_one_in_this_process_gives(tmp_path: Path, stores: Path) -> None:
    spec = json.loads(json.dumps(REAL))
    spec["pretrain"]["set"]["optim.steps"] = 20
    spec["pretrain"]["grid"] = [{"optim.lr": [1e-3, 1e30]}]  # one fails
    left = {}
    for name in ("straight", HOSTILE):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stores").symlink_to(stores)
        here = Shared(tmp_path / name, tmp_path / name / "results")
        runs, said = graph(here, spec), list[str]()
        if name == HOSTILE:
            submit.run_here(runs, here, "s", jobs=2, cpus=1, save_minutes=10, say=said.append)
            assert said == ["2 evaluations left out: their pre-training has no record"]
        else:
            with pytest.raises(UserError, match="lower optim.lr"):
                sweep.run_sweep(here.work / "s.yaml", Workspace(here.work, here.results, torch.device("cpu")), said.append)
        plan.look(runs, here, None)
        left[name] = outcome(here.work)
    assert plan.counts(runs.values()) | {"done": 3, "failed": 1, "blocked": 2} == plan.counts(runs.values())
    assert left[HOSTILE] == left["straight"]


@pytest.mark.slow
def test_a_local_sweep_that_is_killed_leaves_no_process_and_a_checkpoint(tmp_path: Path, stores: Path) -> None:
    (tmp_path / "stores").symlink_to(stores)
    shared = Shared(tmp_path, tmp_path / "results")
    spec = json.loads(json.dumps(REAL))
    spec["pretrain"]["set"]["optim.steps"] = 100_000
    runs = graph(shared, spec)
    command = ["sweep", "run", tmp_path / "s.yaml", "--local", "--work", tmp_path, "--results", shared.results]
    code = [sys.executable, "-c", "from bench.cli import main; main()"]
    process = subprocess.Popen([*code, *command], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    folder = tmp_path / "runs" / next(iter(runs))
    try:
        until(lambda: "loss" in tail(folder / "metrics.jsonl", 10_000), 60)
    finally:
        process.kill()
        process.wait()
    until(lambda: not processes(str(tmp_path)), 60)
    assert list((folder / "checkpoints").glob("step-*.pt"))
    plan.look(runs, shared, None)
    assert {run.state for run in runs.values()} == {"missing"}
