"""Sweeps on a real Slurm: whatever the cluster does, every run ends with the result of an undisturbed one, or a reason.

`make test-slurm` starts the cluster of slurm/testcluster and runs these; without it they are skipped. Everything happens
in a folder with a hostile name.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sweep_tools import HOSTILE, SMALL, SPEC, load_runs, processes, runs_of, until, with_pretrain
from test_sweeps import read_results

from bench import sweeps
from bench.core.errors import UserError
from bench.core.files import ROOT
from bench.runs.workspace import Workspace
from slurm import commands, states, submit
from slurm.cluster import Cluster, find_cluster, read_cluster
from slurm.plan import Plan
from slurm.shared import SharedFolder
from slurm.states import Run

pytestmark = pytest.mark.slurm

UP = ROOT / "slurm" / "testcluster" / "up.sh"


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """The test cluster, and no other; nothing of ours is left in its queue."""
    try:
        config = commands.run_command("scontrol", "show", "config")
    except UserError as error:
        pytest.skip(f"no test cluster, `make test-slurm` starts it: {error}")
    if "/var/lib/slurm-test" not in config:
        pytest.skip("this is a real cluster, not that of slurm/testcluster")
    if os.geteuid():
        pytest.skip("the test cluster is root's")
    yield
    empty()


def empty() -> None:
    for task in commands.list_queue():
        commands.run_command("scancel", task.name)
    until(lambda: not commands.list_queue(), 60)


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
    for node in {*commands.run_command("sinfo", "-hN", "-t", "drained,draining", "-o", "%N").split()}:
        commands.run_command("scontrol", "update", f"NodeName={node}", "State=RESUME")
    for partition in ("main", "high"):
        commands.run_command("scontrol", "update", f"PartitionName={partition}", "State=UP")
    empty()


@pytest.fixture(scope="module")
def straight(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed SPEC leaves, made in this process."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "stores").symlink_to(stores)
    (folder / "s.yaml").write_text(yaml.safe_dump(SPEC))
    sweeps.run_sweep(folder / "s.yaml", Workspace(folder, folder / "results", torch.device("cpu")), lambda text: None)
    return read_results(folder / "results")


def cluster_with(**settings: Any) -> Cluster:
    """The test cluster with these settings for all kinds of run."""
    cluster = read_cluster(find_cluster("test"))
    for kind, each in cluster.requests.items():
        cluster.requests[kind] = each.replace(**settings | ({"nodes": 1, "processes": 1} if kind == "evaluate" else {}))
    return cluster


def hold_jobs() -> None:
    """Let jobs wait in the queue."""
    commands.run_command("scontrol", "update", "PartitionName=main", "State=DOWN")


def release_jobs() -> None:
    commands.run_command("scontrol", "update", "PartitionName=main", "State=UP")


class Sweep:
    """A sweep in a work folder and what the commands do with it."""

    def __init__(self, root: Path, spec: dict[str, Any] = SPEC):
        self.root, self.shared = root, SharedFolder(root, root / "results")
        self.runs = load_runs(self.shared, spec)

    def submit(self, cluster: Cluster | None = None, also: tuple[str, ...] = ()) -> Plan:
        plan = submit.submit(self.runs, self.shared, submit.Settings("s", cluster or cluster_with(), 0.001), also)
        self.submitted = time.time()
        return plan

    def count(self) -> dict[str, int]:
        """state -> number of runs, now."""
        states.read_states(self.runs, self.shared, commands.list_queue())
        return {state: n for state, n in states.count_states(self.runs.values()).items() if n}

    def finish(self, seconds: float = 240) -> dict[str, int]:
        until(lambda: not commands.list_queue(), seconds)
        return self.count()

    def first(self) -> Run:
        return next(iter(self.runs.values()))

    def has_started(self) -> bool:
        """Whether the first pre-training runs and has saved."""
        checkpoints = self.root / "runs" / self.first().name / "checkpoints"
        return bool(list(checkpoints.glob("step-*.pt")) and self.count() and self.first().state == "running")

    def started(self) -> Run:
        """The first pre-training, once it has saved."""
        until(self.has_started, 90)
        return self.first()

    def log(self) -> str:
        return "\n".join(path.read_text() for path in self.shared.submissions.glob("*/logs/*.log"))


def test_a_sweep_is_chained_throttled_and_finished_and_the_second_time_there_is_nothing_to_do(root: Path) -> None:
    spec = with_pretrain(5, methods=["random", "jepa", "mae"], seeds=[0, 1],
                         per_method={"jepa": {"method.predictor": SMALL}, "mae": {"method.decoder": SMALL}})
    spec["evaluate"]["seeds"] = [0, 1, 2]
    sweep, most = Sweep(root, spec), 0
    arrays = sweep.submit(cluster_with(throttle=3)).arrays
    assert [(a.kind, len(a.tasks), bool(a.after)) for a in arrays] == [("pretrain", 5, False), ("evaluate", 5, True)]
    while queue := commands.list_queue():
        running = [task.token for task in queue if task.state == "RUNNING"]
        most = max(most, *(running.count(a.token) for a in arrays))
        time.sleep(0.3)
    assert sweep.count() == {"done": 20}
    assert 1 < most <= 3
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.json")}
    assert sweep.submit().arrays == []
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.json")} == before
    assert not any(sweep.shared.leases.iterdir())
    result = json.loads((root / "results" / f"{sweep.first().name}.json").read_text())
    git = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert result["provenance"]["commit"] == git  # of the copy of the code


def disturb(how: str, sweep: Sweep) -> None:
    """Do to the running pre-training what a cluster does."""
    run = sweep.first()
    assert run.task
    job, node = run.task.name, run.node
    if how in ("SIGKILL", "SIGTERM", "SIGUSR2"):
        (child,) = [pid for pid in processes("slurm.perform") if pid in processes(str(sweep.root))]
        os.kill(child, getattr(signal, how))
    elif how == "the job's signal":
        commands.run_command("scancel", "--batch", "--signal=USR2", job)
    elif how == "requeue":
        commands.run_command("scontrol", "requeue", job)
    elif how == "preemption":
        commands.run_command("sbatch", "--partition=high", "--exclusive", f"--nodelist={node}", "--mem=100", "--time=1",
                      "--output=/dev/null", "--wrap=sleep 3")
    elif how == "node failure":
        path = Path(f"/run/slurm-test/slurmd.{node}.pid")
        words = [f"slurmstepd: [{run.task.job}"]
        os.kill(int(path.read_text()), signal.SIGKILL)
        for pid in [*processes(words[0]), *processes("slurm.worker")]:
            os.kill(pid, signal.SIGKILL)
        until(lambda: "down" in commands.run_command("sinfo", "-hN", "-n", node, "-o", "%T"), 60)
        up()
    elif how == "controller killed":
        # It saves at most every 5 s; jobs that it has not saved are lost to it, and `sweep submit` finds them missing.
        began = datetime.fromisoformat(commands.run_command("squeue", "-hj", job, "-o", "%S").strip()).timestamp()
        until(lambda: Path("/var/lib/slurm-test/ctld/job_state").stat().st_mtime > max(began + 1, sweep.submitted), 30)
        os.kill(int(Path("/run/slurm-test/slurmctld.pid").read_text()), signal.SIGKILL)
        time.sleep(1)
        up()
    elif how == "accounting killed":
        path = Path("/run/slurm-test/slurmdbd.pid")
        if not path.exists():
            pytest.skip("this test cluster has no accounting (SLURM_TEST_ACCT=none)")
        os.kill(int(path.read_text()), signal.SIGKILL)
    elif how == "drained node":
        commands.run_command("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
        commands.run_command("scontrol", "requeue", job)


def test_runs_whose_jobs_are_disturbed_end_with_the_result_of_an_undisturbed_one(root: Path, straight: dict[str, Any]) -> None:
    sweeps_of = {}
    for how in ("SIGKILL", "SIGTERM", "SIGUSR2", "the job's signal", "requeue"):  # all at once: most of each is waiting
        (root / how).mkdir()
        (root / how / "stores").symlink_to(root / "stores")
        sweeps_of[how] = Sweep(root / how)
        sweeps_of[how].submit()
    left = dict(sweeps_of)

    def disturb_started() -> bool:
        for how, sweep in list(left.items()):
            if sweep.has_started():
                disturb(how, left.pop(how))
        return not left

    until(disturb_started, 240)
    until(lambda: not commands.list_queue(), 400)
    for how, sweep in sweeps_of.items():
        assert sweep.count() == {"done": 3}, (how, sweep.log())
        assert read_results(sweep.shared.results) == straight, how


@pytest.mark.parametrize("how", ["preemption", "node failure", "controller killed", "accounting killed", "drained node"])
def test_a_disturbed_run_ends_with_the_result_of_an_undisturbed_one(how: str, root: Path, straight: dict[str, Any]) -> None:
    sweep = Sweep(root)
    sweep.submit()
    node = sweep.started().node
    disturb(how, sweep)
    try:
        assert sweep.finish() == {"done": 3}, sweep.log()
    finally:
        if how == "drained node":
            commands.run_command("scontrol", "update", f"NodeName={node}", "State=RESUME")
        up()
    assert read_results(root / "results") == straight


def test_a_time_limit_is_a_pause(root: Path, straight: dict[str, Any]) -> None:
    sweep = Sweep(root, with_pretrain(100_000))
    sweep.submit(cluster_with(time="00:01:00"))
    until(lambda: "requeued" in sweep.log(), 120)
    assert sweep.first().name not in straight
    until(lambda: sweep.count() and sweep.first().attempts >= 2, 60)
    until(lambda: "continues" in sweep.log(), 240)  # it was saved, if not then (Slurm's signal may come early) next time


def test_a_worker_that_is_killed_with_its_job_is_lost_and_submitted_again(root: Path, straight: dict[str, Any]) -> None:
    sweep = Sweep(root)
    sweep.submit()
    run = sweep.started()
    assert run.progress and run.progress.total == 200  # while it runs its progress shows
    for pid in processes("-P -m slurm.worker /"):
        os.kill(pid, signal.SIGKILL)
    assert sweep.finish() == {"lost": 1, "missing": 2}
    assert "vanished" in run.reason
    assert not processes("slurm.perform")  # no run without the process that holds its lease
    sweep.submit()
    assert sweep.finish() == {"done": 3}
    assert read_results(root / "results") == straight


def test_out_of_memory_has_its_reason_and_is_parked_after_three_times(root: Path) -> None:
    sweep = Sweep(root)
    for states_after in ({"lost": 1, "missing": 2},  # the first may be chance: `submit` repeats it
                         {"failed": 1, "blocked": 2}, {"failed": 1, "blocked": 2}, {"parked": 1, "blocked": 2}):
        sweep.submit(cluster_with(memory="100M"), ("failed",))
        assert sweep.finish() == states_after, (sweep.first(), sweep.log())
        assert re.search("memory", sweep.first().reason, re.I), sweep.first()


def test_a_pretraining_fails_and_the_rest_of_the_sweep_goes_on(root: Path) -> None:
    sweep = Sweep(root, with_pretrain(5, grid=[{"optim.lr": [1e-3, 1e30]}]))
    for state in ("failed", "failed", "parked"):
        sweep.submit(also=("failed",))
        assert sweep.finish() == {"done": 3, state: 1, "blocked": 2}, sweep.log()
        assert not sweep.submit().arrays
    blocked = [run for run in sweep.runs.values() if run.state == "blocked"]
    assert all("its pre-training" in run.reason and "lower optim.lr" in run.reason for run in blocked)
    assert not sweep.submit(also=("failed",)).arrays  # parked


def die_in_submit(root: Path, when: str) -> None:
    """Submit, and die like a process that is killed at this moment."""
    sweep, run_command, calls = Sweep(root), commands.run_command, list[str]()

    def die(*command: str) -> str:
        calls.append(command[0])
        if command[0] == "sbatch" and (when == "before sbatch" or (when == "before the second" and calls.count("sbatch") == 2)):
            os._exit(9)
        answer = run_command(*command)
        if command[0] == "sbatch" and when == "after sbatch":
            os._exit(9)
        return answer

    commands.run_command = die
    sweep.submit()


@pytest.mark.parametrize("when", ["before sbatch", "after sbatch", "before the second"])
def test_a_submitting_shell_that_dies_neither_doubles_nor_forgets(root: Path, when: str) -> None:
    hold_jobs()
    code = "import sys; from pathlib import Path; import test_slurm; test_slurm.die_in_submit(Path(sys.argv[1]), sys.argv[2])"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "slurm")))
    ended = subprocess.run([sys.executable, "-c", code, root, when], env={**os.environ, "PYTHONPATH": path}).returncode
    assert ended == 9
    sweep = Sweep(root)
    sweep.submit()
    assert sweep.count() == {"waiting": 3}
    assert sorted(run for task in commands.list_queue() for run in runs_of(sweep.shared, task)) == sorted(sweep.runs)
    assert not sweep.submit().arrays


def test_a_job_that_a_later_submit_gave_up_does_nothing(root: Path) -> None:
    hold_jobs()
    sweep = Sweep(root)
    array = sweep.submit().arrays[0]
    (sweep.shared.submissions / array.token / "abandoned").touch()
    release_jobs()
    until(lambda: "nothing to do" in sweep.log(), 60)
    assert not (root / "runs").exists()


@pytest.mark.parametrize(("settings", "words"), [
    ({"partition": "nope"}, "invalid partition specified: nope"), ({"memory": "900G"}, "emory|configuration"),
    ({"cpus": 64}, "configuration"), ({"constraint": "moon"}, "feature")])
def test_a_refusal_is_one_line_and_submit_completes_it(root: Path, settings: dict[str, Any], words: str) -> None:
    hold_jobs()
    sweep = Sweep(root)
    with pytest.raises(UserError, match=f"(?i)sbatch refuses.*({words})") as caught:
        sweep.submit(cluster_with(**settings))
    assert "\n" not in str(caught.value)
    assert commands.list_queue() == []
    sweep.submit()
    assert sweep.count() == {"waiting": 3}


def test_two_nodes_of_two_processes_give_the_run_of_one_and_survive_a_requeue(root: Path, straight: dict[str, Any]) -> None:
    sweep = Sweep(root)
    sweep.submit(cluster_with(nodes=2, processes=2, memory="1900M"))
    run = sweep.started()
    assert len(processes("slurm.perform")) >= 4
    assert run.task
    commands.run_command("scancel", "--batch", "--signal=USR2", run.task.name)
    assert sweep.finish(400) == {"done": 3}, sweep.log()
    result, alone = (results[f"{run.name}.json"]["result"] for results in (read_results(root / "results"), straight))
    assert result["curves"]["loss"] == pytest.approx(alone["curves"]["loss"], rel=1e-4)
    assert json.loads((root / "results" / f"{run.name}.json").read_text())["provenance"]["processes"] == 4


def test_many_small_evaluations_are_a_few_jobs(root: Path) -> None:
    spec = with_pretrain(methods=["random"], per_method={})
    spec["evaluate"]["seeds"] = list(range(60))
    sweep = Sweep(root, spec)
    arrays = sweep.submit(cluster_with(pack=20)).arrays
    assert sum(len(a.tasks) for a in arrays) <= 4
    assert sweep.finish(400) == {"done": 61}, sweep.log()


def test_a_job_runs_the_code_that_it_was_submitted_with(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_jobs()
    outside = root / "methods"
    outside.mkdir()
    for suffix in (".py", ".yaml"):
        text = (ROOT / "methods" / f"simclr{suffix}").read_text()
        (outside / f"mine{suffix}").write_text(text.replace("name: simclr", "name: mine"))
    monkeypatch.setenv("ECGSSL_METHODS", str(outside))
    spec = with_pretrain(3, methods=["mine"], per_method={})
    del spec["pretrain"]["set"]["views"]
    sweep = Sweep(root, spec)
    sweep.submit()
    (outside / "mine.py").write_text("raise SystemExit('this is not what was submitted')\n")
    release_jobs()
    assert sweep.finish() == {"done": 3}, sweep.log()


def test_cancelled_runs_leave_the_queue_and_can_be_submitted_again(root: Path, straight: dict[str, Any]) -> None:
    sweep = Sweep(root)
    sweep.submit()
    run = sweep.started()
    assert len(submit.cancel(sweep.runs, sweep.shared, [run.name])) == 1
    assert sweep.finish() == {"missing": 3}
    assert "not requeued: the job is" in sweep.log()
    sweep.submit()
    assert sweep.finish() == {"done": 3}
    assert read_results(root / "results") == straight


def test_what_waits_for_ever_is_resolved(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose dependency cannot be satisfied stays in the queue of a cluster that knows no --kill-on-invalid-dep."""
    spec = with_pretrain(5)
    spec["pretrain"]["set"]["optim.lr"] = 1e30
    sweep, run_command = Sweep(root, spec), commands.run_command
    with monkeypatch.context() as m:
        m.setattr(commands, "run_command", lambda *words: run_command(*(w for w in words if "kill-on-invalid" not in w)))
        sweep.submit()
    until(lambda: any(task.reason == "DependencyNeverSatisfied" for task in commands.list_queue()))
    assert not sweep.submit().arrays
    until(lambda: not commands.list_queue(), 30)
    assert sweep.count() == {"failed": 1, "blocked": 2}
