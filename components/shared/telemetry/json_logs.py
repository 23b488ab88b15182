"""Everything that Python code says on standard error as JSON, one object a line.

Fields: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``exception`` (with its traceback), what the
caller gave as ``extra``, and where the process is: ``step``, ``kfp_run_id``, ``mlflow_run_id``, ``trace_id``,
``span_id``.
"""

import io
import logging
import os
import sys
import threading
from types import TracebackType
from typing import Any, TextIO

from pythonjsonlogger.core import LogData
from pythonjsonlogger.json import JsonFormatter

_FIELDS = {"levelname": "level", "name": "logger", "message": "message", "exc_info": "exception"}
_SECONDS_BETWEEN_BARS = "15"

_context: dict[str, str] = {}


def set_log_context(**fields: str | None) -> None:
    """Set fields of all further lines of this process; None removes one."""
    for name, value in fields.items():
        _context.pop(name, None)
        if value is not None:
            _context[name] = value


def log_context() -> dict[str, str]:
    """Return the fields that all lines have now."""
    return dict(_context)


def log_json_only(step: str | None) -> None:
    """Turn log records, warnings, uncaught exceptions and printed lines into JSON; a second call changes the step."""
    set_log_context(step=step, kfp_run_id=os.environ.get("KFP_RUN_ID"))
    if isinstance(sys.stderr, _JsonLines):
        return
    # A bar's redraw becomes a line, so there are to be few; tqdm reads it when it is imported.
    os.environ.setdefault("TQDM_MININTERVAL", _SECONDS_BETWEEN_BARS)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(list(_FIELDS)[:3], rename_fields=_FIELDS, timestamp="time", json_ensure_ascii=False)
    )
    root = logging.getLogger()
    for other in [each for each in root.handlers if type(each) is logging.StreamHandler]:  # KFP's executor made one
        root.removeHandler(other)
    root.addHandler(handler)
    logging.getLogger("stderr").setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.stderr = _JsonLines(sys.stderr)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda arguments: _log_uncaught(
        arguments.exc_type, arguments.exc_value or arguments.exc_type(), arguments.exc_traceback
    )


class _Formatter(JsonFormatter):
    def add_fields(self, log_data: LogData, record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        log_data.update(_context)


class _JsonLines(io.TextIOBase):
    """Standard error for those who print, and for libraries with log handlers of their own: each line is a record.

    The part of a line before the last carriage return is what a progress bar has drawn over.
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
