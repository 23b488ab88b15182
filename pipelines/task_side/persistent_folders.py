"""What outlives a task: checkpoints of a training that KFP may retry, and outputs of an earlier attempt."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.shared.programs.step_config import parse_config_text

CHECKPOINTS_VARIABLE = "DEEPSYNTH_CHECKPOINTS"
"""The folder for the checkpoints of all runs, e.g. a volume's mount path."""


def keeps_checkpoints() -> bool:
    """Return whether train gets a folder for checkpoints here, so that ``save_steps`` needs no ``checkpoint_dir``."""
    return bool(os.environ.get(CHECKPOINTS_VARIABLE))


@contextmanager
def kept_checkpoints(config: str) -> Iterator[str]:
    """Yield the train step's settings (JSON text) with a ``checkpoint_dir`` of this pipeline run.

    It is ``DEEPSYNTH_CHECKPOINTS/<KFP_RUN_ID>``: a retried step resumes, a later run with the same settings does not. A
    finished training removes its checkpoints, and this block removes the folder. Checkpoints of a failed training stay
    for KFP's "Retry". Without the variable, or with a configured folder, nothing changes.
    """
    settings = parse_config_text(config, "train")
    root = os.environ.get(CHECKPOINTS_VARIABLE)
    if not root or settings.get("checkpoint_dir"):
        yield config
        return
    folder = Path(root) / os.environ.get("KFP_RUN_ID", "")
    yield json.dumps(settings | {"checkpoint_dir": str(folder)})
    if folder != Path(root):
        with suppress(OSError):  # not empty, or never created
            folder.rmdir()


KEPT_OUTPUTS_VARIABLE = "DEEPSYNTH_KEPT_OUTPUTS"
"""The folder with the outputs of an earlier attempt at this run, by step: set by ``deepsynth run --resume``."""


def kept_output(step: str) -> Path | None:
    """Return the output folder that an earlier attempt at this run finished for ``step``, if there is one."""
    root = os.environ.get(KEPT_OUTPUTS_VARIABLE)
    kept = Path(root) / step if root else None
    return kept if kept and kept.is_dir() else None


def take_over(kept: Path, output_dir: Path) -> None:
    """Make a kept output the output of this task."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(kept, output_dir)
