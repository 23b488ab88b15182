"""Which signals processes get that this one starts."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def processes_that_ignore_ctrl_c() -> Iterator[None]:
    """Block SIGINT for processes that start inside this context: this process ends them in an orderly way."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
