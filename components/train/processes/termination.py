"""Handles SIGTERM as a request to stop: a preempted node leaves a training some seconds to write a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class Termination:
    """Records whether the process was asked to end; while ``deferred``, a request does not end it."""

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False

    @contextmanager
    def at_the_next_step(self) -> Iterator[None]:
        """Within the block, only record requests; the block checks ``requested`` between two steps."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def request(self, signal_number: int, frame: FrameType | None) -> None:
        """Handle the signal: record it, and unless deferred exit with code 143 after clean-up.

        A second signal is ignored, so that it does not interrupt the clean-up. A worker gets two when a whole process
        group is signalled, because its parent forwards the signal too.
        """
        if self.requested:
            return
        self.requested = True
        if not self.deferred:
            raise SystemExit(EXIT_CODE)


@contextmanager
def handled_termination() -> Iterator[Termination]:
    """Handle SIGTERM within the block; do nothing outside the main thread, where Python allows no signal handlers."""
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield termination
        return
    before = signal.signal(signal.SIGTERM, termination.request)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)
