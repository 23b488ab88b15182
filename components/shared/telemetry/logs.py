"""Log lines: ours at INFO, the libraries' at WARNING, on standard error.

``DEEPSYNTH_LOG=json`` makes each line a JSON object, for containers, whose lines a collector reads; ``text``, the
default, is for people.
"""

import logging
import os
import sys
import warnings

from components.shared.errors import EXIT_CODE_USER_ERROR, UserError
from components.shared.telemetry import json_logs

logger = logging.getLogger(__name__)

FORMAT_VARIABLE = "DEEPSYNTH_LOG"
_FORMATS = ("text", "json")


def configure_logs(step: str | None = None) -> None:
    """Set up logging for a program; called once, at the program's start.

    Args:
        step: the field ``step`` of JSON lines.

    Raises:
        UserError: ``DEEPSYNTH_LOG`` holds something else than ``text`` or ``json``.
    """
    if logs_are_json():
        json_logs.log_json_only(step)
    else:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    # KFP's executor has set the root logger to INFO, at which libraries log each of their HTTP requests.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("components").setLevel(logging.INFO)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # pydantic-settings, torch's pin_memory and peft's save warn about settings that are ours on purpose.
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


def logs_are_json() -> bool:
    """Return whether log lines are to be JSON.

    Raises:
        UserError: ``DEEPSYNTH_LOG`` holds something else than ``text`` or ``json``.
    """
    value = os.environ.get(FORMAT_VARIABLE) or "text"
    if value not in _FORMATS:
        raise UserError(f"unknown format {value!r}", where=FORMAT_VARIABLE, mend=f"set it to {' or '.join(_FORMATS)}")
    return value == "json"


def exit_code_of(error: UserError) -> int:
    """Say ``error`` as one line on standard error and return the exit code."""
    if os.environ.get(FORMAT_VARIABLE) == "json":
        parts = {"problem": error.problem, "where": error.where, "mend": error.mend}
        logger.error("%s", error, extra={name: value for name, value in parts.items() if value})
    else:
        print(f"error: {error}", file=sys.stderr, flush=True)
    return EXIT_CODE_USER_ERROR
