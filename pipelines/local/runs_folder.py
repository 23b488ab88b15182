"""The contents of a run's folder, and the MLflow store of the folder of all runs."""

import os
from pathlib import Path

from components.shared.tracking.mlflow_connection import sqlite_uri

LOG_FILE = "pipeline.log"
CONFIG_FILE = "config.yaml"
FAILED = ".failed"
"""the suffix of a failed run's folder"""
CHECKPOINTS_FOLDER = ".checkpoints"
"""the checkpoints of trainings that have not ended, by run"""
FOLDERS = {
    "prepare": "dataset",
    "train": "adapter",
    "evaluate": "evaluation",
    "benchmark": "benchmark",
    "gate": "gate",
    "export": "package",
}


def tracking_uri(runs_dir: Path) -> str:
    """Return ``MLFLOW_TRACKING_URI``, or the SQLite file that all runs of the folder share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(runs_dir / "mlflow.db")
