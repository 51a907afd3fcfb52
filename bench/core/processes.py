"""Several processes that train one model: each one's rank, and the messages between them.

torchrun and srun start the same command once per process, and environment variables give each process its rank. Every process
holds the whole model and a part of the batch. A single process sends no messages.
"""

import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench.core.errors import UserError

TIMEOUT = timedelta(minutes=30)  # how long a process waits for the others


@dataclass(frozen=True)
class World:
    """This process's rank among the processes of a run. Rank 0 writes files."""

    rank: int = 0
    size: int = 1
    local: int = 0  # rank among the processes of this machine; also the number of its GPU

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """(B, ...) of every process -> (size x B, ...) in the order of ranks, on every process. Gradients flow back."""
        return x if self.size == 1 else _Gather.apply(x.contiguous(), self)  # type: ignore[no-untyped-call]

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one message."""
        if self.size > 1 and tensors:
            flat = torch.cat([t.flatten() for t in tensors])
            dist.all_reduce(flat)
            parts = torch.split(flat.div_(self.size), [t.numel() for t in tensors])
            torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])

    def reduce_max(self, number: int) -> int:
        """The maximum of `number` over the processes. It does not wait for their devices."""
        if self.size == 1:
            return number
        box = torch.tensor(number)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return int(box)

    def broadcast(self, value: Any = None) -> Any:
        """The value of rank 0, on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]


ALONE = World()


class _Gather(torch.autograd.Function):
    """Gathers the rows of all processes. Every process then computes the same loss of the whole batch. The gradient of a
    process's rows is summed over the processes, so that World.mean_ of the parameters' gradients is that of one process."""

    @staticmethod
    def forward(context: Any, x: Tensor, world: World) -> Tensor:
        context.world, context.rows = world, len(x)
        parts = [torch.empty_like(x) for _ in range(world.size)]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[context.rows * context.world.rank:][: context.rows], None


def join_processes() -> World:
    """The World of this process, from the environment variables of torchrun or srun. The first call connects the processes."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        world = World(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))
    elif int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun, not in a batch script
        world = World(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"]))
        one = env.get("SLURM_STEP_NUM_NODES", "1") == "1"
        env.setdefault("MASTER_ADDR", "127.0.0.1" if one else _first_host(env["SLURM_STEP_NODELIST"]))
        job = int(env["SLURM_JOB_ID"]) * 31 + int(env.get("SLURM_STEP_ID", 0))
        env.setdefault("MASTER_PORT", str(20_000 + job % 20_000))  # the same in all processes, different per job
    else:
        return ALONE
    if world.size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=TIMEOUT)
    return world


def leave_processes() -> None:
    """Disconnect from the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _first_host(nodes: str) -> str:
    if "[" not in nodes and "," not in nodes:
        return nodes
    try:
        return subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True,
                              check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise UserError(f"{socket.gethostname()}: scontrol does not name the first host of {nodes}; "
                        f"set MASTER_ADDR") from None
