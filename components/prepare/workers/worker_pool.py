"""Runs tasks in worker processes and returns results in order; a single worker is this process itself."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

from components.shared.errors import UserError
from components.shared.programs.child_signals import processes_that_ignore_ctrl_c
from components.shared.programs.parent_watch import end_with_parent
from components.shared.telemetry.logs import configure_logs

_TASKS_PER_WORKER = 3
"""Tasks queued per worker: enough that none is idle, few enough that memory does not grow."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def _set_up_worker() -> None:
    end_with_parent()
    configure_logs("prepare")


class WorkerPool:
    """``workers`` processes; a context manager.

    The processes start at once. Until they are ready (almost a second), this process does the work itself.
    """

    def __init__(self, workers: int, warm_up: Callable[[], object]) -> None:
        """``warm_up`` (picklable) is called first in every process, for example to import what it needs."""
        self.workers = workers
        self._warm_up = warm_up
        self._pool: ProcessPoolExecutor | None = None
        self._starting: list[Future[object]] = []

    def __enter__(self) -> Self:
        if self.workers > 1:
            # Spawn, not fork: the thread of the progress bar may hold a lock during a fork.
            self._pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _set_up_worker)
            with processes_that_ignore_ctrl_c():
                self._starting = [self._pool.submit(self._warm_up) for _ in range(self.workers)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], name: Callable[[Task], str]
    ) -> Iterator[Result]:
        """Yield ``function(task)`` for each task in order; only a few tasks are read in advance.

        Args:
            function: must be picklable, as must its argument and result.
            name: names a task in error messages.

        Raises:
            UserError: a process died.
        """
        remaining = iter(tasks)
        while self._pool is None or not all(future.done() for future in self._starting):
            try:
                task = next(remaining)
            except StopIteration:
                return
            yield function(task)
        yield from self._mapped(self._pool, function, remaining, name)

    def _mapped(
        self,
        pool: ProcessPoolExecutor,
        function: Callable[[Task], Result],
        remaining: Iterator[Task],
        name: Callable[[Task], str],
    ) -> Iterator[Result]:
        waiting: deque[tuple[Task, Future[Result]]] = deque()
        task: Task | None = None
        try:
            while True:
                for task in islice(remaining, self.workers * _TASKS_PER_WORKER - len(waiting)):
                    with processes_that_ignore_ctrl_c():
                        waiting.append((task, pool.submit(function, task)))
                if not waiting:
                    return
                task, future = waiting.popleft()
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (killed, out of memory, or a font that its libraries cannot read)",
                where=f"{name(task)}, or shortly after" if task is not None else None,
                mend="use fewer workers where memory is short, leave out unusual fonts, or draw with pillow",
            ) from error
