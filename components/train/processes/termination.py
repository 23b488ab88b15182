"""SIGTERM as a request: a preempted node gives a training some seconds to write its checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class Termination:
    """Whether the process was asked to end; while ``deferred``, the request waits for someone to look at it."""

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False

    @contextmanager
    def at_the_next_step(self) -> Iterator[None]:
        """Let a request only be noted within the block, which looks at ``requested`` between two steps."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def request(self, signal_number: int, frame: FrameType | None) -> None:
        """Handle the signal: note it, or end the process with 143 after its clean-up, which a second one leaves alone.

        One that comes to a whole process group comes to a worker twice: its parent passes it on.
        """
        if self.requested:
            return
        self.requested = True
        if not self.deferred:
            raise SystemExit(EXIT_CODE)


@contextmanager
def handled_termination() -> Iterator[Termination]:
    """Handle SIGTERM within the block. Outside of the main thread, where Python allows none, nothing is handled."""
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield termination
        return
    before = signal.signal(signal.SIGTERM, termination.request)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)
