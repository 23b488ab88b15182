"""``deepsynth run --resume``: continue a failed or interrupted run with the outputs of its finished steps.

The outputs are in ``runs/<id>.failed``. The resumed run gets links to them, and their tasks use those instead of
running again; the folder stays unchanged until the resumed run has ended. A training resumes from its checkpoints in
``runs/.checkpoints/<id>``.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from components.shared.artifacts.output_folder import unfinished_folders
from components.shared.errors import UserError
from pipelines.local.runs_folder import CHECKPOINTS_FOLDER, CONFIG_FILE, FAILED, FOLDERS

# Both run again: the gate takes seconds, and the package is the last output.
TAKEN = ("prepare", "train", "evaluate", "benchmark")


@dataclass(frozen=True)
class FailedRun:
    """A failed or interrupted run: its folder and its settings file."""

    folder: Path
    config: Path

    def finished_steps(self) -> list[str]:
        """Return the steps whose outputs are reused."""
        return [step for step in TAKEN if (self.folder / FOLDERS[step]).is_dir()]

    def link_outputs(self, kept: Path) -> None:
        """Make ``kept/<step>`` for each finished step: hard links, or copies where the file system has none."""
        for step in self.finished_steps():
            shutil.copytree(self.folder / FOLDERS[step], kept / step, copy_function=_link_or_copy, symlinks=True)


def failed_run(runs_dir: Path, run_id: str) -> FailedRun:
    """Return the run to resume.

    Raises:
        UserError: it succeeded, or nothing of it was kept.
    """
    folder = runs_dir.absolute() / f"{run_id}{FAILED}"
    where = f"--resume {run_id}"
    if (runs_dir / run_id).exists():
        raise UserError("this run ended well", where=where, mend="start another one: deepsynth run")
    if not (folder / CONFIG_FILE).is_file():
        others = sorted(path.name.removesuffix(FAILED) for path in runs_dir.glob(f"*{FAILED}/") if path.is_dir())
        known = f"these can be resumed: {', '.join(others)}" if others else "start it anew: deepsynth run"
        raise UserError(f"nothing of such a run was kept in {runs_dir}", where=where, mend=known)
    return FailedRun(folder, folder / CONFIG_FILE)


def checkpoints_root(runs_dir: Path, run_id: str, resumed: bool) -> Path:
    """Return the folder below which trainings keep their checkpoints by run, and remove those that no run can use.

    A run that is not resumed starts without checkpoints, even if an earlier run had the same id. Of the other runs
    those under way, and those that can be resumed, keep theirs.
    """
    root = runs_dir / CHECKPOINTS_FOLDER
    under_way = {one.target for one in unfinished_folders(runs_dir) if one.lives is not False}
    if not resumed and (root / run_id).exists():
        shutil.rmtree(root / run_id)
    for path in root.glob("*/"):
        if path.name not in under_way and not (runs_dir / f"{path.name}{FAILED}").is_dir() and path.name != run_id:
            shutil.rmtree(path, ignore_errors=True)  # room, which this run does not need
    return root


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
