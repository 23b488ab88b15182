"""Run the prepare step alone: ``python -m components.prepare --source docs/ --output_dir dataset``."""

import sys

from components.prepare.config import PrepareConfig
from components.shared.programs.step_command import step_main


def _run(config: PrepareConfig) -> None:
    # Imported late: each worker process imports this module too and does not need the step.
    from components.prepare.step import run

    run(config)


if __name__ == "__main__":
    sys.exit(step_main("prepare", PrepareConfig, _run, sys.argv[1:]))
