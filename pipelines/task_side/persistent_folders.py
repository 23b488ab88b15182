"""Where a task keeps what must outlive its container: the checkpoints of a training that KFP may retry."""

import json
import os
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
