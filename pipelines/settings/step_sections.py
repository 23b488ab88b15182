"""The steps' own configuration classes, and each one without the fields that the pipeline fills in."""

from copy import copy
from typing import Any

from pydantic import create_model, model_validator

from components.benchmark.config import BenchmarkConfig
from components.evaluate.config import EvaluateConfig
from components.export.config import ExportConfig
from components.gate.config import GateConfig
from components.prepare.config import PrepareConfig
from components.shared.programs.step_config import SHARED_SETTINGS, StepConfig
from components.train.config import TrainConfig
from components.train.presets import with_preset

STEP_CONFIGS: dict[str, type[StepConfig]] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "benchmark": BenchmarkConfig,
    "gate": GateConfig,
    "export": ExportConfig,
}
SHARED_FIELDS = SHARED_SETTINGS
"""Given once at the top of the pipeline's configuration, for every step with these fields."""
FOLDER_FIELDS = ("dataset_dir", "adapter_dir", "evaluation_dir", "gate_dir", "output_dir")
"""Artifacts of the pipeline: the orchestrator names their folders."""
DESCRIBED = {"use_attribute_docstrings": False}
"""For generated models: their fields bring their descriptions, and looking for docstrings takes 0.1 s of CPU."""
_TRAIN_SETTINGS_OF_THE_BENCHMARK = "train"


def section_model(step: str) -> type[StepConfig]:
    """Return a step's configuration without shared fields, folders, and the benchmark's copy of train's settings."""
    left_out = {*SHARED_FIELDS, *FOLDER_FIELDS}
    if step == "benchmark":
        left_out.add(_TRAIN_SETTINGS_OF_THE_BENCHMARK)
    config = STEP_CONFIGS[step]
    fields: dict[str, Any] = {
        name: (info.annotation, copy(info)) for name, info in config.model_fields.items() if name not in left_out
    }
    # A section dumps every field, so apply the preset before the defaults.
    validators: dict[str, Any] = {}
    if "preset" in fields:
        validators["_with_preset"] = model_validator(mode="before")(with_preset)
    name = f"{step.capitalize()}Section"
    return create_model(
        name,
        __base__=StepConfig,
        __doc__=config.__doc__,
        __cls_kwargs__=DESCRIBED,
        __validators__=validators,
        **fields,
    )
