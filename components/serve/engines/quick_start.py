"""Leaves out of a process what reading pages does not need, before transformers is imported."""

from pathlib import Path

from components.serve.config import ServeConfig
from components.shared.models.base_models import base_model_location
from components.shared.page_reader.unused_packages import leave_out_unused_packages


def leave_out_unused(config: ServeConfig) -> None:
    """Make packages look not installed that a program which only reads with this base never uses.

    Raises:
        UserError: there is no such base.
    """
    folder = Path(base_model_location(config.base_model or config.model))
    leave_out_unused_packages(folder, {"kind": "model"}, None)
