"""A part of the product as a process of its own: it starts with fresh memory, and its death is only its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_LAST_LINES = 5


def run_module(module: str, settings: dict[str, Any], settings_file: Path, log: Path) -> str | None:
    """Run ``python -m module --config settings_file`` and return why it failed, None where it ended well."""
    settings_file.write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", module, "--config", str(settings_file)]
    # Only the benchmark itself is tracked: the contenders' runs would look like trainings of their own.
    environment = os.environ | {"MLFLOW_TRACKING_URI": "off"}
    with log.open("w", encoding="utf-8") as output:
        answer = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    return _last_words(answer.returncode, log) if answer.returncode else None


def _last_words(exit_code: int, log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ended = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return f"{ended}: " + " | ".join(lines[-_LAST_LINES:]) if lines else ended
