"""Everything that Python code writes to standard error as JSON, one object a line: no passwords, no terminal commands.

Fields: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``exception`` (with its traceback), the caller's
``extra``, what the process works on (``step``, ``kfp_run_id``, ``mlflow_run_id``, ``trace_id``, ``span_id``, and in the
service ``request_id``), and ``log``, the line as text: KFP 2.17 shows of an archived log's JSON lines this field and
nothing else (``RunLogEntry`` in its backend/src/apiserver/archive/log.go).
"""

import io
import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

from pythonjsonlogger.core import LogData
from pythonjsonlogger.json import JsonFormatter

from components.shared.errors import printable, without_passwords
from components.shared.telemetry.trace_target import current_span_ids

_FIELDS = {"levelname": "level", "name": "logger", "message": "message", "exc_info": "exception"}
_SECONDS_BETWEEN_BARS = "15"
# KFP reads an archived log with Go's bufio.Scanner, which gives up at a line of 64 KiB; the message is in the line too.
_LONGEST_TEXT = 8_000

_context: dict[str, str] = {}
_of_task: ContextVar[dict[str, str] | None] = ContextVar("fields of this task's log lines", default=None)


def set_log_context(**fields: str | None) -> None:
    """Set fields of all later lines of this process; None removes a field."""
    for name, value in fields.items():
        _context.pop(name, None)
        if value is not None:
            _context[name] = value


def log_context() -> dict[str, str]:
    """Return the fields that every line has now."""
    return dict(_context)


def set_task_log_context(**fields: str) -> None:
    """Set fields of all later lines of this asyncio task."""
    _of_task.set(fields)


def log_json_only(step: str | None) -> None:
    """Write log records, warnings, uncaught exceptions and printed lines as JSON; a second call changes the step."""
    set_log_context(step=step, kfp_run_id=os.environ.get("KFP_RUN_ID"))
    if isinstance(sys.stderr, _JsonLines):
        return
    # Each redraw of a progress bar becomes a line; tqdm reads the interval when it is imported.
    os.environ.setdefault("TQDM_MININTERVAL", _SECONDS_BETWEEN_BARS)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(list(_FIELDS)[:3], rename_fields=_FIELDS, timestamp="time", json_ensure_ascii=False)
    )
    root = logging.getLogger()
    for other in [each for each in root.handlers if type(each) is logging.StreamHandler]:  # KFP's executor adds one
        root.removeHandler(other)
    root.addHandler(handler)
    logging.getLogger("stderr").setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.stderr = _JsonLines(sys.stderr)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda arguments: _log_uncaught(
        arguments.exc_type, arguments.exc_value or arguments.exc_type(), arguments.exc_traceback
    )


def readable(line: Mapping[str, Any]) -> str:
    """Return a JSON line as text: its level unless that is INFO, its message, and its traceback below.

    >>> readable({"level": "ERROR", "message": "no room"})
    'ERROR no room'
    """
    level = str(line.get("level") or "INFO")
    exception = f"\n{line['exception']}" if line.get("exception") else ""
    return f"{'' if level == 'INFO' else level + ' '}{line['message']}{exception}"


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable(without_passwords(value), keep="\n\t")
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    return {name: _shown(one) for name, one in value.items()} if isinstance(value, dict) else value


class _Formatter(JsonFormatter):
    def add_fields(self, log_data: LogData, record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data.update(_context | (_of_task.get() or {}) | current_span_ids())
        for name, value in log_data.items():
            log_data[name] = _shown(value)
        log_data["log"] = readable(log_data)[:_LONGEST_TEXT]


class _JsonLines(io.TextIOBase):
    """Replaces standard error: each line that code prints, or a library's own log handler writes, becomes a record.

    A progress bar overwrites the part of a line before the last carriage return, so that part is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        self._lock = threading.Lock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
            if "\r" in self._line:
                lines.append(self._line)
                self._line = ""
        for line in lines:
            said = line.rstrip("\r").rpartition("\r")[2].strip()
            if said:
                logging.getLogger("stderr").info("%s", said)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        logging.getLogger("stderr").error("interrupted")
        return
    logging.getLogger("stderr").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, traceback))
