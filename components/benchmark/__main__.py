"""Run the benchmark step alone: ``python -m components.benchmark --dataset_dir dataset --output_dir benchmark``."""

import sys

from components.benchmark.config import BenchmarkConfig
from components.benchmark.step import run
from components.shared.programs.step_command import step_main

if __name__ == "__main__":
    sys.exit(step_main("benchmark", BenchmarkConfig, run, sys.argv[1:]))
