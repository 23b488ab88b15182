"""A child process with its descendants: started in its own group, watched, and ended together."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

# A training ends its step and writes a checkpoint.
_SECONDS_TO_END_IN_ORDER = 30.0


class ProcessGroup:
    """Starts a command in its own process group; use as a context manager, which ends whatever still runs.

    Args:
        command: the program and its arguments.
        log: the file for standard output and standard error.
        environment: all variables of the command.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._command = command
        self._log = log
        self._environment = environment
        self.peak_memory_bytes = 0
        """Highest sampled sum of the processes' resident memory; shared pages count once per process."""

    def __enter__(self) -> "ProcessGroup":
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self._environment),
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._signal(signal.SIGTERM):
            deadline = time.monotonic() + _SECONDS_TO_END_IN_ORDER
            while self._signal(0) and time.monotonic() < deadline:
                self._process.poll()  # reap the leader: a zombie still counts as running
                time.sleep(0.05)
            self._signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def exit_code(self, memory_elsewhere: int = 0) -> int | None:
        """Return the leader's exit code, or None while it runs; each call also samples the memory.

        ``memory_elsewhere``: bytes used for it outside the group, such as by a Docker engine's containers.
        """
        code = self._process.poll()
        if code is None:
            self._sample_memory(memory_elsewhere)
        return code

    def _signal(self, number: int) -> bool:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _sample_memory(self, memory_elsewhere: int) -> None:
        total = memory_elsewhere
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(self._process.pid)
            for process in [leader, *leader.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        self.peak_memory_bytes = max(self.peak_memory_bytes, total)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, with the same clean-up."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
