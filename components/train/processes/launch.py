"""Starts the train step in one process per GPU on this machine, with torchrun's launcher."""

import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from components.shared.artifacts.output_folder import scratch_folder
from components.shared.errors import UserError
from components.train.batches.batch_plan import in_words
from components.train.config import TrainConfig
from components.train.processes.termination import EXIT_CODE, Termination, handled_termination
from components.train.processes.torchrun import CPU_PROCESSES_VARIABLE

log = logging.getLogger(__name__)

CONFIG_FILE = "train.json"
_ERROR_FILE = "error-{}.json"
_SMALLER_BATCH_FILE = "smaller-batch.json"
# torchrun's signals without SIGTERM: on SIGTERM, torchrun kills processes after 30 s, perhaps while they write a
# checkpoint.
_LEFT_TO_TORCHRUN = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def error_file(folder: Path, rank: int) -> Path:
    """Return the file in which process ``rank`` leaves its ``UserError``."""
    return folder / _ERROR_FILE.format(rank)


def smaller_batch(folder: Path) -> list[dict[str, int]]:
    """Return the halvings of the batch that the processes which ran out of memory left; none if none did."""
    try:
        found: list[dict[str, int]] = json.loads((folder / _SMALLER_BATCH_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return found


def leave_smaller_batch(folder: Path, halvings: Sequence[dict[str, int]]) -> None:
    """Ask the parent to start all processes again, with the batch that the last of ``halvings`` names."""
    partial = folder / f"{_SMALLER_BATCH_FILE}.{os.getpid()}"
    partial.write_text(json.dumps(list(halvings)), encoding="utf-8")
    partial.replace(folder / _SMALLER_BATCH_FILE)


def run_in_processes(config: TrainConfig) -> None:
    """Run the train step in ``config.num_gpus`` processes (``worker.py``) and return when all have finished.

    SIGTERM is forwarded to them; they end as a single process does, with a checkpoint if there is a ``checkpoint_dir``.
    If one runs out of memory while training, all are started again with half the micro-batch, at most twice; they go on
    from their newest checkpoint.

    Raises:
        UserError: there are too few CUDA devices, or a process failed with a ``UserError``.
        ChildProcessError: a process failed with another error, which it wrote to standard error.
    """
    _check_devices(config.num_gpus)
    halvings: list[dict[str, int]] = []
    while halvings := _attempt(config, halvings):
        log.warning("a process ran out of memory, all start again: %s", in_words(halvings[-1]))
        if config.resume_from_checkpoint == "never":
            config = config.model_copy(update={"resume_from_checkpoint": "auto"})


def _attempt(config: TrainConfig, halvings: list[dict[str, int]]) -> list[dict[str, int]]:
    """Run the processes; return nothing if they trained, or the halvings to try next if one ran out of memory."""
    with scratch_folder("deepsynth-train") as folder:
        scratch = str(folder)
        (folder / CONFIG_FILE).write_text(config.model_dump_json(), encoding="utf-8")
        leave_smaller_batch(folder, halvings)
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=config.num_gpus,
            run_id=str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",  # a machine's own name may have no address
            max_restarts=0,
            # Libraries print progress to standard output: show the first process's only.
            logs_specs=DefaultLogsSpecs(scratch, redirects=dict.fromkeys(range(1, config.num_gpus), Std.OUT)),
            signals_to_handle=",".join(each.name for each in _LEFT_TO_TORCHRUN),
        )
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it logs each exit code and signal
        with _signals_as_before(), _passed_on_to_workers(scratch) as termination:
            try:
                elastic_launch(settings, sys.executable)("-m", "components.train.worker", scratch)
            except ChildFailedError as error:
                smaller = smaller_batch(folder)
                if smaller != halvings and not termination.requested:
                    return smaller
                _fail(error, folder, termination)
            except SignalException as error:
                if error.sigval == signal.SIGINT:
                    raise KeyboardInterrupt from None
                raise SystemExit(128 + error.sigval) from None
    return []


def _check_devices(wanted: int) -> None:
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted <= devices or (not devices and os.environ.get(CPU_PROCESSES_VARIABLE) == "1"):
        return
    raise UserError(
        f"{wanted} GPUs are asked for, and this machine has {devices} CUDA devices",
        where="num_gpus",
        mend=f"set it to {max(1, devices)}",
    )


@contextmanager
def _signals_as_before() -> Iterator[None]:
    """Restore the signal handlers that torchrun replaces within the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _LEFT_TO_TORCHRUN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _passed_on_to_workers(mark: str) -> Iterator[Termination]:
    """Forward SIGTERM to the child processes that have ``mark`` among their arguments; if there are none, exit."""
    with handled_termination() as termination:
        handle = signal.getsignal(signal.SIGTERM)

        def pass_on(number: int, frame: Any) -> None:
            workers = [child for child in psutil.Process().children() if _has_argument(child, mark)]
            termination.deferred = bool(workers)
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            termination.request(number, frame)

        if handle == termination.request:  # true in the main thread only
            signal.signal(signal.SIGTERM, pass_on)
        yield termination


def _has_argument(process: psutil.Process, argument: str) -> bool:
    try:
        return argument in process.cmdline()
    except psutil.Error:
        return False  # the process has ended


def _fail(error: ChildFailedError, folder: Path, termination: Termination) -> NoReturn:
    for path in sorted(folder.glob(_ERROR_FILE.format("*"))):
        raise UserError(json.loads(path.read_text(encoding="utf-8"))) from None
    codes = {failure.exitcode for failure in error.failures.values()}
    if termination.requested or EXIT_CODE in codes:
        raise SystemExit(EXIT_CODE) from None
    if 130 in codes:
        raise KeyboardInterrupt from None
    rank, failure = error.get_first_failure()
    ended = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
    raise ChildProcessError(f"process {rank} of the training {ended}") from None
