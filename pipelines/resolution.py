"""The pipeline's first task: parameters and configuration become one checked setting per step."""

from typing import Any, NamedTuple

from components.shared.base_models import check_base_model_can_be_had
from components.shared.model_registry import champion_of
from components.shared.step_config import parse_config_text, validated
from pipelines.config import parameter_text, pipeline_config, quickstart_values, with_overrides
from pipelines.step_sections import STEP_CONFIGS

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


class StepSettings(NamedTuple):
    """One JSON text per step, the digest of the content of all sources, and which version is the champion now."""

    source_digest: str
    champion: str
    prepare: str
    train: str
    evaluate: str
    benchmark: str
    gate: str
    export: str


def resolve(config: str, parameters: dict[str, Any]) -> StepSettings:
    """Return every step's settings; ``config`` is YAML or JSON text, empty for the quickstart preset.

    Parameters that are None override nothing.

    Raises:
        UserError: a key or value is wrong, or the source, the base model or the champion's registry cannot be had.
    """
    from components.prepare.config import PrepareConfig
    from components.prepare.dataset_sources import sources_digest

    values = parse_config_text(config, "config") if config.strip() else quickstart_values()
    pipeline_config(values, "config")
    given = {PARAMETER_KEYS[name]: value for name, value in parameters.items() if value is not None}
    checked = pipeline_config(with_overrides(values, given), "pipeline parameters")
    settings = {step: checked.step_settings(step) for step in STEP_CONFIGS}
    check_base_model_can_be_had(checked.base_model, checked.revision)
    digest = sources_digest(validated(PrepareConfig, settings["prepare"] | {"output_dir": "."}, "prepare"))
    texts = {step: parameter_text(values) for step, values in settings.items()}
    return StepSettings(source_digest=digest, champion=_champion(settings["evaluate"].get("champion")), **texts)


def _champion(name: str | None) -> str:
    """Return the champion's name and version; asked now, so that a registry that is down costs no training."""
    registered = champion_of(name) if name else None
    return str(registered) if registered else "none"
