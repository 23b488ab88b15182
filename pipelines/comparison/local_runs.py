"""Runs of ``deepsynth run``: folders with ``summary.json``, which is the last file written."""

import datetime
from pathlib import Path
from typing import Any

from components.shared.artifacts.run_summary import RunSummary
from components.shared.errors import UserError
from components.shared.programs.step_config import read_config_file
from pipelines.comparison.compared_run import (
    FILES,
    SAMPLES,
    ComparedRun,
    flattened,
    read_files,
)
from pipelines.local.runs_folder import CONFIG_FILE, FOLDERS

_FILLED_BY_CONFIGURE = ("prepare.min_letter_height",)
"""Settings whose null means a value that the base model has; the steps' runs in MLflow name the value."""


def local_folder(run: str, runs_dir: Path) -> Path | None:
    """Return the folder of a finished run, by its id or path; None if there is no such folder.

    Raises:
        UserError: the run failed, or has not finished.
    """
    for folder in (runs_dir / run, Path(run)):
        if folder.is_dir():
            if (folder / RunSummary.FILE).is_file():
                return folder
            raise UserError(f"not a finished run: it has no {RunSummary.FILE}", where=str(folder))
    if (log := runs_dir / f"{run}.failed.log").is_file():
        raise UserError("the run failed", where=run, mend=f"its log is {log}")
    if any(runs_dir.glob(f".{run}.partial-*")):
        raise UserError(
            "the run has not finished", where=run, mend="wait for it; a killed one leaves such a folder, too"
        )
    return None


def read_local_run(folder: Path) -> ComparedRun:
    """Read a finished run's folder.

    Raises:
        UserError: a file of it cannot be read, or has another schema version.
    """
    where = str(folder)
    summary = RunSummary.read(folder)
    paths = {step: folder / FOLDERS[step] / name for step, name in FILES.items()}
    samples = folder / FOLDERS["evaluate"] / SAMPLES
    finished = datetime.datetime.fromtimestamp((folder / RunSummary.FILE).stat().st_mtime, datetime.UTC)
    return ComparedRun(
        name=summary.run_id,
        where=where,
        finished=f"{finished:%Y-%m-%d %H:%M}",
        config=_settings(folder),
        files=read_files({step: path.parent for step, path in paths.items() if path.exists()}),
        seconds=summary.seconds_per_step | {"total": summary.seconds_total},
        samples=samples if samples.is_file() else None,
        notes=[f"there is no {path.relative_to(folder)}" for path in (*paths.values(), samples) if not path.exists()],
    )


def _settings(folder: Path) -> dict[str, Any]:
    settings = flattened(read_config_file(folder / CONFIG_FILE))
    return {key: value for key, value in settings.items() if key not in _FILLED_BY_CONFIGURE or value is not None}
