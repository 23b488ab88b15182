"""How a step's process ends: exit code 0; 2 and one line for a user's error; 143 after SIGTERM; 1 and a traceback."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from components.shared.errors import UserError
from components.shared.programs.machine_failures import named_failure
from components.shared.telemetry.termination_message import leave_termination_message

EXIT_CODE_TERMINATED = 128 + signal.SIGTERM


@contextmanager
def ends_in_order(step: str) -> Iterator[None]:
    """Write the reason why the block fails to Kubernetes' termination message, and name failures of the machine.

    SIGTERM raises SystemExit(143) in the block, so that its clean-up runs: temporary folders are removed, and its
    MLflow run is marked as KILLED.

    Raises:
        UserError: the block raised one, or memory, disk space or a permission was missing.
    """
    with _terminated_in_order():
        try:
            yield
        except Exception as error:
            user_error = named_failure(error, step) or (error if isinstance(error, UserError) else None)
            if user_error is None:
                leave_termination_message(f"{step}: {type(error).__name__}: {error} (the log has the traceback)")
                raise
            leave_termination_message(f"{step}: {user_error}")
            if user_error is error:
                raise
            raise user_error from error
        except SystemExit as end:
            if end.code == EXIT_CODE_TERMINATED:
                leave_termination_message(f"{step}: terminated by SIGTERM (preempted, deleted, or out of time)")
            raise


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set a signal handler
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(EXIT_CODE_TERMINATED)
