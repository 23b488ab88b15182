"""Run the train step alone: ``python -m components.train --dataset_dir dataset --output_dir adapter``."""

import sys

from components.shared.programs.step_command import step_main
from components.train.config import TrainConfig


def _run(config: TrainConfig) -> None:
    # Imported late: torch and transformers take seconds to import, and --help needs neither.
    from components.train.step import run

    run(config)


def _check(config: TrainConfig) -> None:
    from components.train.estimate.least_memory import check_least_memory

    check_least_memory(config)


if __name__ == "__main__":
    sys.exit(step_main("train", TrainConfig, _run, sys.argv[1:], _check))
