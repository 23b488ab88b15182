"""The settings that are parameters of the KFP pipeline, and so fields of their own on KFP's run page.

This list is the only one: types and descriptions come from the configuration's fields, and the pipeline's signature
and the configure component are generated from it. To add a parameter, add a line.
"""

from dataclasses import dataclass
from typing import Any, get_args

from components.shared.programs.step_config import StepConfig
from pipelines.settings.pipeline_config import PipelineConfig

PARAMETER_KEYS = {
    "source": "source",
    "base_model": "base_model",
    "seed": "seed",
    "max_documents": "prepare.max_documents",
    "learning_rate": "train.learning_rate",
    "max_steps": "train.max_steps",
    "num_train_epochs": "train.num_train_epochs",
    "per_device_train_batch_size": "train.per_device_train_batch_size",
    "r": "train.r",
    "lora_alpha": "train.lora_alpha",
    "load_in_4bit": "train.load_in_4bit",
}
"""A pipeline parameter's name -> the configuration key that it overrides."""

CONFIG_DESCRIPTION = (
    "YAML or JSON text with any of the settings (deepsynth config prints all); empty for the quickstart's. The other "
    "parameters override it where they are given. Argo replaces {{...}} in this text; deepsynth submit escapes it."
)
PAGES_DESCRIPTION = (
    "the address of this KFP's run pages without the run's id, for the link in MLflow; deepsynth submit and schedule "
    "set it."
)
SKIP_DESCRIPTION = "do nothing if the champion (evaluate.champion) was trained on the same documents."


@dataclass(frozen=True)
class Parameter:
    """One optional parameter of the pipeline."""

    name: str
    type: type
    description: str


def pipeline_parameters() -> list[Parameter]:
    """Return the optional parameters in order, with type and description of the setting that each overrides."""
    return [_parameter(name, key) for name, key in PARAMETER_KEYS.items()]


def overrides(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration keys and values that ``parameters`` set; those that are None set nothing."""
    return {PARAMETER_KEYS[name]: value for name, value in parameters.items() if value is not None}


def _parameter(name: str, key: str) -> Parameter:
    *sections, field = key.split(".")
    model: Any = PipelineConfig
    for section in sections:
        model = model.model_fields[section].annotation
    assert issubclass(model, StepConfig)
    info = model.model_fields[field]
    return Parameter(name, _plain_type(info.annotation), " ".join((info.description or "").split()))


def _plain_type(annotation: Any) -> type:
    """Return the one type that KFP has for a field such as ``int | None``."""
    (plain,) = [one for one in get_args(annotation) or (annotation,) if one is not type(None)]
    if plain not in (str, int, float, bool):
        raise TypeError(f"KFP has no parameter type for {annotation}")
    return plain
