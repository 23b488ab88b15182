"""The contents of a run's folder, and the MLflow store of the folder of all runs."""

import os
from pathlib import Path

from components.export.package.package_layout import LINEAGE_FILE
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


def resolved_run(model: str | None) -> str | None:
    """Return what reads in a run's folder, or in one that export made; other models as they are.

    Of a run, such as ``runs/20261129-101500``, it is the adapter's folder; of ``runs/20261129-101500/package`` the zip.
    """
    folder = Path(model).expanduser() if model else None
    if folder is None or not folder.is_dir():
        return model
    if (folder / CONFIG_FILE).is_file():
        return str(folder / FOLDERS["train"])
    archives = list(folder.glob("*.zip"))
    of_export = len(archives) == 1 and (folder / LINEAGE_FILE).is_file()
    return str(archives[0]) if of_export else model


def folders_beside(package: Path) -> dict[str, Path]:
    """Return dataset, adapter and evaluation of the run whose package this is, by their names.

    Nothing if ``package``, the folder or a zip in it, is not in the folder of a run, where all three are.
    """
    folder = package.absolute()
    run = (folder if folder.is_dir() else folder.parent).parent
    found = {name: run / name for name in ("dataset", "adapter", "evaluation")}
    return found if all(path.is_dir() for path in found.values()) else {}
