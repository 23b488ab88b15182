"""``python -m components.evaluate --help``: the step from the command line."""

import sys
from typing import Any

from components.evaluate.config import EvaluateConfig
from components.shared.command_line import step_main


def _run(config: EvaluateConfig) -> Any:
    from components.evaluate.step import run  # torch and transformers take seconds: not for --help

    return run(config)


if __name__ == "__main__":
    sys.exit(step_main("evaluate", EvaluateConfig, _run, sys.argv[1:]))
