"""Connects the processes of one training (one per GPU) and exchanges values between them.

Values are exchanged with gloo on the CPU, so that they never wait for the GPU or block it; NCCL carries the gradients.
In a training of one process, each function here returns its argument.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from components.shared.errors import UserError
from components.train.processes.torchrun import started_by_torchrun

# The others wait while the first process writes a checkpoint to a slow volume, or transcribes more pages than they do.
_LONGEST_WAIT = timedelta(hours=1)

T = TypeVar("T")


def join() -> None:
    """Connect to the other processes that torchrun started, and select this process's CUDA device if there are any.

    Raises:
        UserError: there are fewer CUDA devices than processes.
    """
    if not started_by_torchrun():
        return
    # accelerate checks only this variable: without it, GPU processes would train separately and exchange no gradients.
    os.environ.setdefault("LOCAL_RANK", "0")
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(_device_index())
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_LONGEST_WAIT)


def _device_index() -> int:
    index, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if index >= devices:
        raise UserError(
            f"{index + 1} processes or more are on a machine with {devices} CUDA devices",
            where="torchrun",
            mend="start one process per device",
        )
    return index


def part() -> None:
    """Wait for all processes and disconnect from them."""
    wait_for_all()
    if _together():
        dist.destroy_process_group()


def process_count() -> int:
    """Return how many processes train."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if _together() else 0


def is_first() -> bool:
    """Return whether this is the process that logs, tracks and writes the results."""
    return rank() == 0


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def wait_for_all() -> None:
    """Wait until every process has called this."""
    summed([0])


def summed(values: Sequence[float]) -> list[float]:
    """Return the sums of each value over all processes; whole numbers are exact up to 2**53."""
    return _reduced(values, dist.ReduceOp.SUM) if _together() else list(values)


def largest(values: Sequence[float]) -> list[float]:
    """Return the largest of each value over all processes."""
    return _reduced(values, dist.ReduceOp.MAX) if _together() else list(values)


def _reduced(values: Sequence[float], operation: Any) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, operation)
    result: list[float] = tensor.tolist()
    return result


def in_any_process(flag: bool) -> bool:
    """Return whether ``flag`` is true in one process or more; the same answer in all of them."""
    return bool(largest([flag])[0])


def from_first(value: T) -> T:
    """Return the first process's value."""
    if not _together():
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, device=torch.device("cpu"))
    first: T = values[0]
    return first


def of_all(value: T) -> list[T]:
    """Return the value of every process, by rank."""
    if not _together():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
