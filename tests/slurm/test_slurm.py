"""Sweeps on a real Slurm: whatever the cluster does, every run ends with the record of an undisturbed one, or a reason.

`make test-slurm` starts the cluster of slurm/testcluster and runs these; without it they are skipped. Everything happens
in a folder with a hostile name.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench import sweeps as sweep
from bench.core.errors import UserError
from bench.report.reproduction import settled
from bench.runs.config import ROOT
from bench.runs.workspace import Workspace
from slurm import cluster, commands, plan, submit
from slurm.cluster import Cluster
from slurm.plan import Run
from slurm.shared import Shared

pytestmark = pytest.mark.slurm

HOSTILE = "wörk 'of' \"$HOME\" & ; é"
UP = ROOT / "slurm" / "testcluster" / "up.sh"
SMALL = {"width": 16, "depth": 1, "heads": 2}
SPEC: dict[str, Any] = {
    "pretrain": {
        "methods": ["jepa"], "seeds": [0], "mix": {"tiny": 1},
        "set": {"data.rate_hz": 100, "data.crop_seconds": 2.5, "encoder.size": "tiny", "encoder.patch": 25,
                "optim.steps": 200, "optim.batch": 4, "optim.warmup_steps": 2, "views": [{"seconds": 2.5}]},
        "per_method": {"jepa": {"method.predictor": SMALL}},
    },
    "evaluate": {
        "store": "tiny", "tasks": ["pitch"], "protocols": ["linear"], "seeds": [0, 1],
        "set": {"evaluation.steps": 4, "evaluation.batch": 16, "evaluation.validate_every": 2},
    },
}


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """The test cluster, and no other; nothing of ours is left in its queue."""
    try:
        config = commands.call("scontrol", "show", "config")
    except UserError as error:
        pytest.skip(f"no test cluster, `make test-slurm` starts it: {error}")
    if "/var/lib/slurm-test" not in config:
        pytest.skip("this is a real cluster, not that of slurm/testcluster")
    if os.geteuid():
        pytest.skip("the test cluster is root's")
    yield
    empty()


def empty() -> None:
    for task in commands.queue():
        commands.call("scancel", task.name)
    until(lambda: not commands.queue(), 60)


def up() -> None:
    """Start what is not running, with or without accounting as it was."""
    plain = "accounting_storage/none" in Path("/etc/slurm/slurm.conf").read_text()
    subprocess.run([UP], check=True, timeout=120, env={**os.environ, "SLURM_TEST_ACCT": "none" if plain else "dbd"})


@pytest.fixture
def root(slurm: None, tmp_path: Path, stores: Path) -> Iterator[Path]:
    """A work folder of a hostile and long name, with the store `tiny`."""
    folder = tmp_path / HOSTILE / ("l" * 200)
    folder.mkdir(parents=True)
    (folder / "stores").symlink_to(stores)
    yield folder
    for node in {*commands.call("sinfo", "-hN", "-t", "drained,draining", "-o", "%N").split()}:
        commands.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
    for partition in ("main", "high"):
        commands.call("scontrol", "update", f"PartitionName={partition}", "State=UP")
    empty()


@pytest.fixture(scope="module")
def straight(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed SPEC leaves, made in this process."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "stores").symlink_to(stores)
    (folder / "s.yaml").write_text(yaml.safe_dump(SPEC))
    sweep.run_sweep(folder / "s.yaml", Workspace(folder, folder / "results", torch.device("cpu")), lambda text: None)
    return outcome(folder)


def outcome(root: Path) -> dict[str, Any]:
    """Every record without what the clock and the machine decide."""
    return {path.name: settled(json.loads(path.read_text())) for path in (root / "results").glob("*.json")}


def until(holds: Callable[[], Any], seconds: float = 180) -> Any:
    """Wait until it holds; gives what it gave."""
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        try:
            value = holds()
        except UserError:  # the controller is being restarted
            value = None
        if value:
            return value
        time.sleep(0.2)
    raise TimeoutError(commands.call("squeue") + commands.call("sinfo"))


def on(**asked: Any) -> Cluster:
    """The test cluster with these settings for all kinds."""
    made = cluster.read(cluster.find("test"))
    for kind, each in made.asked.items():
        made.asked[kind] = type(each)(**{**vars(each), **asked, **({"nodes": 1, "processes": 1} if kind == "evaluate" else {})})
    return made


class Sweep:
    """A sweep in a work folder and what the verbs do with it."""

    def __init__(self, root: Path, spec: dict[str, Any] = SPEC):
        self.root, self.shared = root, Shared(root, root / "results")
        (root / "s.yaml").write_text(yaml.safe_dump(spec))
        self.runs = plan.graph(sweep.load_sweep(root / "s.yaml", root)[0])

    def submit(self, where: Cluster | None = None, also: tuple[str, ...] = ()) -> plan.Plan:
        submitted = submit.submit(self.runs, self.shared, where or on(), "s", also, save_minutes=0.001)
        self.submitted = time.time()
        return submitted

    def look(self) -> dict[str, int]:
        plan.look(self.runs, self.shared, commands.queue())
        return {state: n for state, n in plan.counts(self.runs.values()).items() if n}

    def idle(self) -> bool:
        return not commands.queue()

    def finish(self, seconds: float = 240) -> dict[str, int]:
        until(self.idle, seconds)
        return self.look()

    def first(self) -> Run:
        return next(iter(self.runs.values()))

    def started(self) -> Run:
        """The first pre-training, once it has saved."""
        run = self.first()
        checkpoints = self.root / "runs" / run.name / "checkpoints"
        until(lambda: list(checkpoints.glob("step-*.pt")) and self.look() and run.state == "running", 90)
        return run

    def log(self) -> str:
        return "\n".join(path.read_text() for path in self.shared.submissions.glob("*/logs/*.log"))


def processes(word: str) -> list[int]:
    """The processes whose command line holds this word; of workers, those of these tests."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text(errors="replace").replace("\0", " ")
            if word in line and ("slurm.work" not in word or tempfile.gettempdir() in line):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_sweep_is_chained_throttled_and_finished_and_the_second_time_there_is_nothing_to_do(root: Path) -> None:
    spec = json.loads(json.dumps(SPEC))
    spec["pretrain"] |= {"methods": ["random", "jepa", "mae"], "seeds": [0, 1],
                         "per_method": {"jepa": {"method.predictor": SMALL}, "mae": {"method.decoder": SMALL}}}
    spec["pretrain"]["set"]["optim.steps"] = 5
    spec["evaluate"] |= {"seeds": [0, 1, 2]}
    made = Sweep(root, spec)
    arrays = made.submit(on(throttle=3)).arrays
    assert [(a.kind, len(a.tasks), bool(a.after)) for a in arrays] == [("pretrain", 5, False), ("evaluate", 5, True)]
    most = 0
    while not made.idle():
        running = [task for task in commands.queue() if task.state == "RUNNING"]
        most = max(most, max((sum(t.token == a.token for t in running) for a in arrays), default=0))
        time.sleep(0.3)
    assert made.look() == {"done": 20}
    assert 1 < most <= 3
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.json")}
    assert made.submit().arrays == []
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.json")} == before
    assert not any(made.shared.leases.iterdir())
    record = json.loads((root / "results" / f"{made.first().name}.json").read_text())
    git = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert record["provenance"]["commit"] == git  # of the copy of the code


def disturb(how: str, made: Sweep) -> None:
    """Do to the running pre-training what a cluster does."""
    run = made.started()
    assert run.task
    job, node = run.task.name, run.node
    if how in ("SIGKILL", "SIGTERM", "SIGUSR2"):
        (child,) = processes("slurm.work perform")
        os.kill(child, getattr(signal, how))
    elif how == "the job's signal":
        commands.call("scancel", "--batch", "--signal=USR2", job)
    elif how == "requeue":
        commands.call("scontrol", "requeue", job)
    elif how == "preemption":
        commands.call("sbatch", "--partition=high", "--exclusive", f"--nodelist={node}", "--mem=100", "--time=1",
                      "--output=/dev/null", "--wrap=sleep 3")
    elif how == "node failure":
        path = Path(f"/run/slurm-test/slurmd.{node}.pid")
        words = [f"slurmstepd: [{run.task.job}"]
        os.kill(int(path.read_text()), signal.SIGKILL)
        for pid in [*processes(words[0]), *processes("slurm.work")]:
            os.kill(pid, signal.SIGKILL)
        until(lambda: "down" in commands.call("sinfo", "-hN", "-n", node, "-o", "%T"), 60)
        up()
    elif how == "controller killed":
        # It saves at most every 5 s; jobs that it has not saved are lost to it, and `sweep submit` finds them missing.
        began = datetime.fromisoformat(commands.call("squeue", "-hj", job, "-o", "%S").strip()).timestamp()
        until(lambda: Path("/var/lib/slurm-test/ctld/job_state").stat().st_mtime > max(began + 1, made.submitted), 30)
        os.kill(int(Path("/run/slurm-test/slurmctld.pid").read_text()), signal.SIGKILL)
        time.sleep(1)
        up()
    elif how == "accounting killed":
        path = Path("/run/slurm-test/slurmdbd.pid")
        if not path.exists():
            pytest.skip("this test cluster has no accounting (SLURM_TEST_ACCT=none)")
        os.kill(int(path.read_text()), signal.SIGKILL)
    elif how == "drained node":
        commands.call("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
        commands.call("scontrol", "requeue", job)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGUSR2", "the job's signal", "requeue", "preemption",
                                 "node failure", "controller killed", "accounting killed", "drained node"])
def test_a_disturbed_run_ends_with_the_record_of_an_undisturbed_one(how: str, root: Path, straight: dict[str, Any]) -> None:
    made = Sweep(root)
    made.submit()
    node = made.started().node
    disturb(how, made)
    try:
        assert made.finish() == {"done": 3}, made.log()
    finally:
        if how == "drained node":
            commands.call("scontrol", "update", f"NodeName={node}", "State=RESUME")
        up()
    assert outcome(root) == straight


def test_a_time_limit_is_a_pause(root: Path, straight: dict[str, Any]) -> None:
    spec = json.loads(json.dumps(SPEC))
    spec["pretrain"]["set"]["optim.steps"] = 100_000
    made = Sweep(root, spec)
    made.submit(on(time="00:01:00"))
    until(lambda: "requeued" in made.log(), 120)
    assert made.first().name not in straight
    until(lambda: made.look() and made.first().attempts >= 2, 60)
    until(lambda: "continues" in made.log(), 240)  # it was saved, if not then (Slurm's signal may come early) next time


def test_a_worker_that_is_killed_with_its_job_is_lost_and_submitted_again(root: Path, straight: dict[str, Any]) -> None:
    made = Sweep(root)
    made.submit()
    made.started()
    for pid in processes("-P -m slurm.work /"):
        os.kill(pid, signal.SIGKILL)
    assert made.finish() == {"lost": 1, "missing": 2}
    assert "vanished" in made.first().reason
    assert not processes("slurm.work perform")  # no run without the one who holds its lease
    made.submit()
    assert made.finish() == {"done": 3}
    assert outcome(root) == straight


def test_out_of_memory_has_its_reason_and_is_parked_after_three_times(root: Path) -> None:
    made = Sweep(root)
    for attempt in range(3):  # the first is given the benefit of the doubt: `submit` repeats it
        made.submit(on(memory="100M"), ("failed",))
        assert made.finish() == ({"failed": 1, "blocked": 2} if attempt else {"lost": 1, "missing": 2})
        assert re.search("memory", made.first().reason, re.I), made.first()
    made.submit(on(memory="100M"), ("failed",))
    found = made.finish()
    assert found == {"parked": 1, "blocked": 2}, (found, made.first(), made.log())
    assert re.search("memory", made.first().reason, re.I), made.first()


def test_a_pretraining_fails_and_the_rest_of_the_sweep_goes_on(root: Path) -> None:
    spec = json.loads(json.dumps(SPEC))
    spec["pretrain"]["grid"] = [{"optim.lr": [1e-3, 1e30]}]
    spec["pretrain"]["set"]["optim.steps"] = 5
    made = Sweep(root, spec)
    for attempt in range(3):
        made.submit(also=("failed",))
        assert made.finish() == {"done": 3, "failed" if attempt < 2 else "parked": 1, "blocked": 2}, made.log()
        assert not made.submit().arrays
    blocked = [run for run in made.runs.values() if run.state == "blocked"]
    assert all("its pre-training" in run.reason and "lower optim.lr" in run.reason for run in blocked)
    assert not made.submit(also=("failed",)).arrays  # parked


def die_in_submit(root: Path, when: str) -> None:
    """Submit, and die like one killed at this moment."""
    made, call, calls = Sweep(root), commands.call, list[str]()

    def die(*command: str) -> str:
        calls.append(command[0])
        if command[0] == "sbatch" and (when == "before sbatch" or (when == "before the second" and calls.count("sbatch") == 2)):
            os._exit(9)
        said = call(*command)
        if command[0] == "sbatch" and when == "after sbatch":
            os._exit(9)
        return said

    commands.call = die  # type: ignore[assignment]
    made.submit()


@pytest.mark.parametrize("when", ["before sbatch", "after sbatch", "before the second"])
def test_a_submitting_shell_that_dies_neither_doubles_nor_forgets(root: Path, when: str) -> None:
    commands.call("scontrol", "update", "PartitionName=main", "State=DOWN")  # jobs wait
    code = "import sys; from pathlib import Path; import test_slurm; test_slurm.die_in_submit(Path(sys.argv[1]), sys.argv[2])"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ended = subprocess.run([sys.executable, "-c", code, root, when], env={**os.environ, "PYTHONPATH": path}).returncode
    assert ended == 9
    made = Sweep(root)
    made.submit()
    assert made.look() == {"waiting": 3}
    carried = [run for task in commands.queue() for unit in made.shared.tasks(task.token)[task.index] for run in unit]
    assert sorted(carried) == sorted(made.runs)
    assert not made.submit().arrays


def test_a_job_that_a_later_submit_gave_up_does_nothing(root: Path) -> None:
    commands.call("scontrol", "update", "PartitionName=main", "State=DOWN")
    made = Sweep(root)
    array = made.submit().arrays[0]
    (made.shared.submissions / array.token / "abandoned").touch()
    commands.call("scontrol", "update", "PartitionName=main", "State=UP")
    until(lambda: "nothing to do" in made.log(), 60)
    assert not (root / "runs").exists()


@pytest.mark.parametrize(("asked", "words"), [
    ({"partition": "nope"}, "invalid partition specified: nope"), ({"memory": "900G"}, "emory|configuration"),
    ({"cpus": 64}, "configuration"), ({"constraint": "moon"}, "feature")])
def test_a_refusal_is_one_line_and_submit_completes_it(root: Path, asked: dict[str, Any], words: str) -> None:
    commands.call("scontrol", "update", "PartitionName=main", "State=DOWN")
    made = Sweep(root)
    with pytest.raises(UserError, match=f"(?i)sbatch refuses.*({words})") as caught:
        made.submit(on(**asked))
    assert "\n" not in str(caught.value)
    assert commands.queue() == []
    made.submit()
    assert made.look() == {"waiting": 3}


def test_two_nodes_of_two_processes_give_the_run_of_one_and_survive_a_requeue(root: Path, straight: dict[str, Any]) -> None:
    made = Sweep(root)
    made.submit(on(nodes=2, processes=2, memory="1900M"))
    run = made.started()
    assert len(processes("slurm.work perform")) >= 4
    assert run.task
    commands.call("scancel", "--batch", "--signal=USR2", run.task.name)
    assert made.finish(400) == {"done": 3}, made.log()
    record, alone = outcome(root)[f"{run.name}.json"], straight[f"{run.name}.json"]
    assert record["result"]["curves"]["loss"] == pytest.approx(alone["result"]["curves"]["loss"], rel=1e-4)
    assert json.loads((root / "results" / f"{run.name}.json").read_text())["provenance"]["processes"] == 4


def test_many_small_evaluations_are_a_few_jobs(root: Path) -> None:
    spec = json.loads(json.dumps(SPEC))
    spec["pretrain"] |= {"methods": ["random"], "per_method": {}}
    spec["evaluate"]["seeds"] = list(range(60))
    made = Sweep(root, spec)
    arrays = made.submit(on(pack=20)).arrays
    assert sum(len(a.tasks) for a in arrays) <= 4
    assert made.finish(400) == {"done": 61}, made.log()


def test_a_job_runs_the_code_that_it_was_submitted_with(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands.call("scontrol", "update", "PartitionName=main", "State=DOWN")
    outside = root / "methods"
    outside.mkdir()
    for suffix in (".py", ".yaml"):
        text = (ROOT / "methods" / f"simclr{suffix}").read_text()
        (outside / f"mine{suffix}").write_text(text.replace("name: simclr", "name: mine"))
    monkeypatch.setenv("ECGSSL_METHODS", str(outside))
    spec = json.loads(json.dumps(SPEC))
    spec["pretrain"] |= {"methods": ["mine"], "per_method": {}}
    spec["pretrain"]["set"] = {k: v for k, v in spec["pretrain"]["set"].items() if k != "views"} | {"optim.steps": 3}
    made = Sweep(root, spec)
    made.submit()
    (outside / "mine.py").write_text("raise SystemExit('this is not what was submitted')\n")
    commands.call("scontrol", "update", "PartitionName=main", "State=UP")
    assert made.finish() == {"done": 3}, made.log()


def test_cancelled_runs_leave_the_queue_and_can_be_submitted_again(root: Path, straight: dict[str, Any]) -> None:
    made = Sweep(root)
    made.submit()
    run = made.started()
    assert len(submit.cancel(made.runs, made.shared, [run.name])) == 1
    assert made.finish() == {"missing": 3}
    assert "not requeued: the job is" in made.log()
    made.submit()
    assert made.finish() == {"done": 3}
    assert outcome(root) == straight


def test_what_waits_for_ever_is_resolved(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose dependency cannot be satisfied stays in the queue of a cluster that knows no --kill-on-invalid-dep."""
    spec = json.loads(json.dumps(SPEC))
    spec["pretrain"]["set"] |= {"optim.lr": 1e30, "optim.steps": 5}
    made, call = Sweep(root, spec), commands.call
    with monkeypatch.context() as m:
        m.setattr(commands, "call", lambda *command: call(*(c for c in command if "kill-on-invalid" not in c)))
        made.submit()
    until(lambda: any(task.reason == "DependencyNeverSatisfied" for task in commands.queue()))
    assert not made.submit().arrays
    until(lambda: not commands.queue(), 30)
    assert made.look() == {"failed": 1, "blocked": 2}
