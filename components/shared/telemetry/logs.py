"""Log lines on standard error: this project's at INFO, the libraries' at WARNING, without passwords.

``DEEPSYNTH_LOG=json`` writes each line as a JSON object for log collectors; ``text``, the default, is for people.
"""

import logging
import os
import sys
import traceback
import warnings
from types import TracebackType

from components.shared.errors import EXIT_CODE_USER_ERROR, UserError, printable, without_passwords

logger = logging.getLogger(__name__)

FORMAT_VARIABLE = "DEEPSYNTH_LOG"
_FORMATS = ("text", "json")
_TEXT_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(without_passwords(super().format(record)), keep="\n\t")


def _print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    print(printable(without_passwords(text), keep="\n\t"), end="", file=sys.stderr, flush=True)


class _PrintedWarnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {self.format(record)}", file=sys.stderr)


def show_warnings() -> None:
    """Print warnings that are logged as ``warning: …`` lines, for commands that print their results themselves.

    ``configure_logs`` takes its place in those that log what they do.
    """
    if not logging.getLogger().handlers:
        handler = _PrintedWarnings(logging.WARNING)
        handler.setFormatter(_TextFormatter("%(message)s"))
        logging.getLogger().addHandler(handler)
    _leave_out_noise()


def _leave_out_noise() -> None:
    # It warns on each import that a package for 4-bit products on a CPU is missing, whatever is trained.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def configure_logs(step: str | None = None) -> None:
    """Set up logging; call it once, when the program starts.

    Args:
        step: the field ``step`` of JSON lines.

    Raises:
        UserError: ``DEEPSYNTH_LOG`` is neither ``text`` nor ``json``.
    """
    root = logging.getLogger()
    for printed in [each for each in root.handlers if isinstance(each, _PrintedWarnings)]:
        root.removeHandler(printed)
    if logs_are_json():
        from components.shared.telemetry import json_logs

        json_logs.log_json_only(step)
    else:
        logging.basicConfig(format=_TEXT_FORMAT)
        for handler in root.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setFormatter(_TextFormatter(_TEXT_FORMAT))
        sys.excepthook = _print_uncaught
    # KFP's executor sets the root logger to INFO, and libraries log every HTTP request at that level.
    root.setLevel(logging.WARNING)
    logging.getLogger("components").setLevel(logging.INFO)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    _leave_out_noise()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # pydantic-settings, torch's pin_memory and PEFT's save warn about settings that this project chose on purpose.
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


def logs_are_json() -> bool:
    """Return whether log lines are JSON.

    Raises:
        UserError: ``DEEPSYNTH_LOG`` is neither ``text`` nor ``json``.
    """
    value = os.environ.get(FORMAT_VARIABLE) or "text"
    if value not in _FORMATS:
        raise UserError(f"unknown format {value!r}", where=FORMAT_VARIABLE, mend=f"set it to {' or '.join(_FORMATS)}")
    return value == "json"


def exit_code_of(error: UserError) -> int:
    """Print ``error`` as one line on standard error and return the exit code."""
    if os.environ.get(FORMAT_VARIABLE) == "json":
        parts = {"problem": error.problem, "where": error.where, "mend": error.mend}
        logger.error("%s", error, extra={name: value for name, value in parts.items() if value})
    else:
        print(f"error: {error}", file=sys.stderr, flush=True)
    return EXIT_CODE_USER_ERROR
