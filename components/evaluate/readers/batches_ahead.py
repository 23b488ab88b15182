"""The next batches, prepared in threads while the model reads the current one.

A page of DeepSeek-OCR-2 with six tiles costs 0.4 s of one core to cut, scale and normalise (768 x 1024 pixels, one
thread of a 2-core machine); with 1,000 of them one after the other a GPU would wait 400 s.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchesAhead(Generic[T]):
    """Batches of an order, taken one after the other; ``threads`` of them are prepared ahead, none with 0.

    Each one ahead is kept in host memory: 32 pages of six tiles in 16 bits are 0.9 GB, and twice that meanwhile.
    """

    def __init__(self, prepare: Callable[[Sequence[int]], T], order: Sequence[int], threads: int) -> None:
        self._prepare = prepare
        self._order = order
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare") if threads else None
        self._ahead: dict[tuple[int, int], Future[T]] = {}

    def __enter__(self) -> "BatchesAhead[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def take(self, start: int, size: int) -> T:
        """Return the batch of ``size`` that begins at ``start``; a size other than before drops what is ahead.

        Raises:
            Exception: what ``prepare`` raised.
        """
        if self._pool is None:
            return self._prepare(self._order[start : start + size])
        last = min(len(self._order), start + size * (self._threads + 1))
        wanted = [(begin, size) for begin in range(start, last, size)]
        for batch in self._ahead.keys() - set(wanted):
            self._ahead.pop(batch).cancel()
        for begin, count in wanted:
            if (begin, count) not in self._ahead:
                positions = self._order[begin : begin + count]
                self._ahead[begin, count] = self._pool.submit(self._prepare, positions)
        return self._ahead.pop((start, size)).result()
