"""``python -m components.serve --help``: the service from the command line."""

import sys

from components.serve.config import ServeConfig
from components.serve.step import run
from components.shared.programs.step_command import step_main

if __name__ == "__main__":
    sys.exit(step_main("serve", ServeConfig, run, sys.argv[1:]))
