"""``python -m components.gate --help``: the step from the command line."""

import sys

from components.gate.config import GateConfig
from components.gate.step import run
from components.shared.programs.step_command import step_main

if __name__ == "__main__":
    sys.exit(step_main("gate", GateConfig, run, sys.argv[1:]))
