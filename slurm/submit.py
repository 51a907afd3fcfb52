"""Plan -> sbatch, such that a submitting shell that dies anywhere neither doubles nor forgets a run.

A submission is a folder, complete before sbatch is called; its token is the job's name. After sbatch its `job_id` is
written. The next `submit` finds folders without one and asks the queue for their names: there: the number is written
down; not there: `abandoned`, which a job that comes in late all the same reads and obeys.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import write_text
from bench.runs import results as record
from bench.runs.config import METHODS, run_id
from slurm import commands, lease, plan, snapshot
from slurm.cluster import Asked, Cluster
from slurm.commands import Task
from slurm.plan import Array, Plan, Run
from slurm.shared import Shared

LOCAL_PACK = 20  # evaluations for which torch is imported once; ours


def submit(runs: dict[str, Run], shared: Shared, cluster: Cluster, sweep: str, also: tuple[str, ...] = (),
           save_minutes: float = 10.0) -> Plan:
    """Submit what is missing, and runs in the states `also`; gives what was submitted. The states are filled in."""
    if set("%\\\n") & set(str(shared.submissions.absolute())):
        raise UserError(f"Slurm cannot write a log below {str(shared.work)!r}: choose a work folder without %, \\ and "
                        f"newline")
    record.check_writable(shared.results)
    record.check_writable(shared.folder)
    with alone(shared, cluster.beat_seconds):
        queue = settle(shared, commands.queue())
        plan.look(runs, shared, queue)
        made = plan.arrays(runs, cluster, commands.largest_array(), also)
        code = snapshot.take(shared.folder / "code") if made.arrays else shared.folder
        for array in made.arrays:
            folder = prepare(array, shared, cluster, sweep, code, save_minutes)
            write_text(folder / "job_id", send(array, folder, shared, cluster.asked[array.kind]))
    return made


@contextlib.contextmanager
def alone(shared: Shared, beat_seconds: float) -> Iterator[None]:
    """The block runs in one process at a time; a dead one is taken over. UserError where another is at it."""
    holder, over = lease.Holder(shared.leases, beat_seconds), threading.Event()

    def beat() -> None:
        while not over.wait(beat_seconds):
            holder.beat()

    thread = threading.Thread(target=beat, daemon=True)
    try:
        for _ in range(lease.MISSED + 2):
            busy = holder.take(["submit"])
            if not busy:
                break
            time.sleep(beat_seconds)
        else:
            raise UserError(f"another `submit` works on {shared.work} ({busy['submit']}): wait for it or stop it")
        thread.start()
        yield
    finally:
        over.set()
        if thread.ident:
            thread.join()
        holder.forget(["submit"])
        holder.end()


def settle(shared: Shared, queue: list[Task]) -> list[Task]:
    """Finish or give up submissions that died half-way, cancel tasks that wait for what cannot be; the queue after it."""
    names = {task.token: task.job for task in queue}
    for folder in shared.submissions.glob("*"):
        if (folder / "submission.json").is_file() and not any((folder / n).exists() for n in ("job_id", "abandoned")):
            if folder.name in names:
                write_text(folder / "job_id", names[folder.name])
            else:
                (folder / "abandoned").touch()
    never = [task for task in queue if task.reason == "DependencyNeverSatisfied" and shared.tasks(task.token)]
    if never:
        commands.call("scancel", *(task.name for task in never))
    abandoned = {token for token in names if (shared.submissions / token / "abandoned").exists()}
    return [task for task in queue if task not in never and task.token not in abandoned]


def prepare(array: Array, shared: Shared, cluster: Cluster, sweep: str, code: Path, save_minutes: float) -> Path:
    """The folder of a submission, submission.json last: it says that the rest is there."""
    asked, folder = cluster.asked[array.kind], shared.submissions.absolute() / array.token
    (folder / "logs").mkdir(parents=True)
    lines = []
    for index, units in array.tasks.items():
        named = [[{"run_id": run_id(config), "config": config.to_json()} for config in unit] for unit in units]
        lines.append(json.dumps({"index": index, "units": named}) + "\n")
    write_text(folder / "tasks.jsonl", "".join(lines))
    write_text(folder / "job.sh", "\n".join([
        "#!/bin/bash", *cluster.setup, f"unset {METHODS}  # methods from outside are in the copy of the code",
        f"export PYTHONPATH={shlex.quote(str(code.absolute()))}", f"cd {shlex.quote(str(folder))} || exit",
        f"exec {shlex.quote(sys.executable)} -P -m slurm.work {shlex.quote(str(folder))}\n"]))
    about = {"sweep": sweep, "cluster": cluster.name, "kind": array.kind, "after": array.after,
             "work": str(shared.work.absolute()), "results": str(shared.results.absolute()), "code": code.name,
             "nodes": asked.nodes, "processes": asked.processes, "cpus": asked.cpus, "beat_seconds": cluster.beat_seconds,
             "save_minutes": save_minutes,
             "tasks": {index: [[run_id(c) for c in unit] for unit in units] for index, units in array.tasks.items()}}
    write_text(folder / "submission.json", json.dumps(about))
    return folder


def send(array: Array, folder: Path, shared: Shared, asked: Asked) -> str:
    """Call sbatch; gives the job's id."""
    options = [f"--job-name={commands.PREFIX}{array.token}",
               f"--array={ranges(array.tasks)}%{asked.throttle}".removesuffix("%0"), "--requeue", "--open-mode=append",
               f"--output={folder}/logs/%a.log", f"--chdir={folder}", *asked.options()]
    if array.after:
        first = (shared.submissions / array.after / "job_id").read_text()
        options += [f"--dependency=aftercorr:{first}", "--kill-on-invalid-dep=yes"]
    return commands.call("sbatch", "--parsable", *options, str(folder / "job.sh")).strip().partition(";")[0]


def ranges(indices: Iterable[int]) -> str:
    """0-4,7 for 0, 1, 2, 3, 4, 7."""
    out: list[list[int]] = []
    for index in sorted(indices):
        if out and out[-1][1] == index - 1:
            out[-1][1] = index
        else:
            out.append([index, index])
    return ",".join(f"{a}-{b}" if a < b else str(a) for a, b in out)


def cancel(runs: dict[str, Run], shared: Shared, names: list[str]) -> list[Task]:
    """Cancel the tasks of the queue that carry these runs, or any of the sweep; gives them. Records stay."""
    with alone(shared, lease.BEAT_SECONDS):
        plan.look(runs, shared, settle(shared, commands.queue()))
        tasks = {run.task.name: run.task for name, run in runs.items() if run.task and (not names or name in names)}
        for few in plan.chunks(list(tasks), 500):  # a command line has an end
            commands.call("scancel", *few)
    return list(tasks.values())


def local(cpus: int) -> Cluster:
    """This machine as a cluster: a process per task, evaluations packed."""
    asked = {"pretrain": 1, "evaluate": LOCAL_PACK}
    return Cluster("local", asked={kind: Asked("", "00:01:00", "", cpus, nodes=1, processes=1, gpus=0, throttle=0, pack=pack)
                                   for kind, pack in asked.items()})


def run_here(runs: dict[str, Run], shared: Shared, sweep: str, jobs: int, cpus: int, save_minutes: float,
             say: Callable[[str], None] = print) -> None:
    """Run what is missing on this machine, `jobs` tasks at a time, as the jobs of a cluster do it."""
    record.check_writable(shared.results)
    cluster = local(cpus)
    plan.look(runs, shared, None)
    made = plan.arrays(runs, cluster, len(runs) or 1, at_once=jobs)
    code = snapshot.take(shared.folder / "code")
    env = {k: v for k, v in os.environ.items() if k != METHODS and not k.startswith("SLURM_")}
    env["PYTHONPATH"] = str(code.absolute())
    todo, ended = [], dict[tuple[str, int], int]()  # tasks in order; (token, index) -> exit code
    for array in made.arrays:
        folder = prepare(array, shared, cluster, sweep, code, save_minutes)
        write_text(folder / "job_id", "local")  # nothing for a later `submit` to settle
        todo += [(array, folder, index) for index in array.tasks]
    running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
    try:
        while todo or running:
            for task in [t for t in todo if not t[0].after or (t[0].after, t[2]) in ended][: jobs - len(running)]:
                todo.remove(task)
                array, folder, index = task
                if array.after and ended[array.after, index]:
                    say(f"{sum(map(len, array.tasks[index]))} evaluations left out: their pre-training has no record")
                    continue
                with (folder / "logs" / f"{index}.log").open("ab") as log:
                    command = [sys.executable, "-P", "-m", "slurm.work", str(folder), str(index)]
                    running[array.token, index] = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)
            for key, process in list(running.items()):
                if process.poll() is not None:
                    ended[key] = running.pop(key).returncode
            time.sleep(0.1)
    finally:
        for process in running.values():
            process.terminate()  # it saves
        for process in running.values():
            process.wait()
