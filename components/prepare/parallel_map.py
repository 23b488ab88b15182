"""A map over processes that keeps the order, so that the number of workers cannot change a result."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

_SMALLEST_WORTHWHILE = 64


class OrderedMap(Protocol):
    """Calls a picklable function on every item and yields the results in the items' order."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]: ...


@contextmanager
def ordered_map(workers: int) -> Iterator[OrderedMap]:
    """Yield a map over ``workers`` processes; with one worker, or few items, it stays in this process."""

    def sequential(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        return map(function, items)

    if workers == 1:
        yield sequential
        return
    # Spawned, not forked: the progress bar's thread may hold a lock at the moment of a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:

        def parallel(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
            if len(items) < _SMALLEST_WORTHWHILE:
                return sequential(function, items)
            return pool.map(function, items, chunksize=max(1, min(64, len(items) // (4 * workers))))

        yield parallel
