"""What a run's folder holds, and where the runs of one folder are tracked."""

import os
from pathlib import Path

from components.shared.tracking.mlflow_connection import SQLITE

LOG_FILE = "pipeline.log"
CONFIG_FILE = "config.yaml"
FAILED = ".failed"
"""what the name of a failed run's folder ends in"""
FOLDERS = {
    "prepare": "dataset",
    "train": "adapter",
    "evaluate": "evaluation",
    "benchmark": "benchmark",
    "gate": "gate",
    "export": "package",
}


def tracking_uri(runs_dir: Path) -> str:
    """Return the user's MLflow address, or the SQLite file that all runs of the folder share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{runs_dir.absolute() / 'mlflow.db'}"
