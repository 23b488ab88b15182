"""``python -m components.export --help``: the step from the command line."""

import sys
from typing import Any

from components.export.config import ExportConfig
from components.shared.programs.step_command import step_main


def _run(config: ExportConfig) -> Any:
    from components.export.step import run  # torch and transformers take seconds: not for --help

    return run(config)


if __name__ == "__main__":
    sys.exit(step_main("export", ExportConfig, _run, sys.argv[1:]))
