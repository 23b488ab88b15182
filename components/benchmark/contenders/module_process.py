"""Runs a module in its own process: it starts with fresh memory, and a crash does not end the benchmark."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from components.shared.errors import EXIT_CODE_USER_ERROR
from components.shared.telemetry.logs import FORMAT_VARIABLE
from components.shared.telemetry.termination_message import FILE_VARIABLE
from components.shared.telemetry.tracing import below_this_span

OUT_OF_TIME = "the benchmark's time_limit_minutes are over"
_LAST_LINES = 5


def run_module(
    module: str,
    settings: dict[str, Any],
    settings_file: Path,
    log: Path,
    seconds: float | None = None,
    *,
    check_only: bool = False,
) -> str | None:
    """Run ``python -m module --config settings_file`` and return why it failed; None if it succeeded.

    It is killed after ``seconds``. With ``check_only`` it only checks the settings.
    """
    settings_file.write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", module, "--config", str(settings_file)]
    command += ["--check_only"] * check_only
    # Only the benchmark itself is tracked and writes a termination message: a contender's would look like that of a
    # train step.
    apart = {"MLFLOW_TRACKING_URI": "off", FILE_VARIABLE: os.devnull, FORMAT_VARIABLE: "text"}  # people read its log
    environment = os.environ | apart | below_this_span()
    with log.open("w", encoding="utf-8") as output:
        try:
            answer = subprocess.run(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return OUT_OF_TIME
    return _last_words(answer.returncode, log) if answer.returncode else None


def seconds_until(deadline: float) -> float | None:
    """Return the seconds until a value of ``time.monotonic``, always above 0; None if it is infinite."""
    return None if math.isinf(deadline) else max(0.001, deadline - time.monotonic())


def _last_words(exit_code: int, log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if exit_code == EXIT_CODE_USER_ERROR and lines and lines[-1].startswith("error: "):
        return lines[-1].removeprefix("error: ")
    ended = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return f"{ended}: " + " | ".join(lines[-_LAST_LINES:]) if lines else ended
