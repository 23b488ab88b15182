"""``python -m components.evaluate --help``: the step from the command line."""

import sys

from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run
from components.shared.programs.step_command import step_main

if __name__ == "__main__":
    sys.exit(step_main("evaluate", EvaluateConfig, run, sys.argv[1:]))
