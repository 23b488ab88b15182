"""The pipeline's first task: parameters and configuration become one checked setting per step."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from components.shared.errors import UserError
from components.shared.models.base_content import base_digest
from components.shared.models.base_models import check_base_model_can_be_had
from components.shared.programs.step_config import parse_config_text, validated
from components.shared.tracking.model_registry import SOURCE_DIGEST_TAG, RegisteredAdapter, champion_of
from components.shared.tracking.pipeline_run import tag_pipeline_run
from pipelines.settings.pipeline_config import parameter_text, pipeline_config, quickstart_values, with_overrides
from pipelines.settings.step_sections import STEP_CONFIGS

logger = logging.getLogger(__name__)

TRAIN = "train"
UNCHANGED = "unchanged"
"""What a run decides to do: all of its steps or, since the champion was trained on this data already, none."""
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
    """One JSON text per step, digests of what all sources and the base hold, and which version is the champion now.

    ``decision`` is ``TRAIN`` or ``UNCHANGED``.
    """

    decision: str
    source_digest: str
    base_digest: str
    champion: str
    prepare: str
    train: str
    evaluate: str
    benchmark: str
    gate: str
    export: str


def resolve(config: str, parameters: dict[str, Any]) -> StepSettings:
    """Return every step's settings; ``config`` is YAML or JSON text, empty for the quickstart preset.

    Parameters that are None override nothing. With ``skip_if_unchanged`` the decision is ``UNCHANGED`` where the
    champion was trained on the same source content.

    Raises:
        UserError: a key or value is wrong, or the source, the base model or the champion's registry cannot be had; or
            what a late step is sure to refuse: an upload without a token, a gate over the training's own pages.
    """
    from components.prepare.config import PrepareConfig
    from components.prepare.selection.dataset_sources import sources_digest

    values = parse_config_text(config, "config") if config.strip() else quickstart_values()
    pipeline_config(values, "config")
    given = {key: parameters[name] for name, key in PARAMETER_KEYS.items() if parameters.get(name) is not None}
    checked = pipeline_config(with_overrides(values, given), "pipeline parameters")
    settings = {step: checked.step_settings(step) for step in STEP_CONFIGS}
    _check_late_steps(settings)
    check_base_model_can_be_had(checked.base_model, checked.revision)
    digest = sources_digest(validated(PrepareConfig, settings["prepare"] | {"output_dir": "."}, "prepare"))
    # Asked now, so that a registry that is down costs no training.
    name = settings["evaluate"].get("champion")
    champion = champion_of(name) if name else None
    decision = _decision(digest, champion) if parameters.get("skip_if_unchanged") else TRAIN
    texts = {step: parameter_text(values) for step, values in settings.items()}
    return StepSettings(
        decision=decision,
        source_digest=digest,
        base_digest=base_digest(checked.base_model, checked.revision),
        champion=str(champion or "none"),
        **texts,
    )


def _check_late_steps(settings: dict[str, dict[str, Any]]) -> None:
    """Refuse now what gate and export, which read the same settings hours later, are sure to refuse."""
    from components.export.publication.hub_upload import required_token

    if settings["evaluate"]["split"] == "train":
        raise UserError(
            "the gate promotes nothing by the pages of the training itself",
            where="evaluate.split 'train'",
            mend="set it to 'eval', or run the evaluate step alone: python -m components.evaluate",
        )
    if settings["export"].get("push_to_hub"):
        required_token()


def _decision(digest: str, champion: RegisteredAdapter | None) -> str:
    if champion is None:
        logger.info("skip_if_unchanged: there is no champion (evaluate.champion), so the run trains")
        return TRAIN
    return UNCHANGED if champion.tags.get(SOURCE_DIGEST_TAG) == digest else TRAIN


def say_decision(settings: StepSettings, page: str) -> None:
    """Write the Markdown ``page`` that says what the run does, and tag its MLflow run where that is nothing."""
    digest = settings.source_digest
    if settings.decision == UNCHANGED:
        text = f"Nothing is trained: {settings.champion}, the champion, knows this data already (`{digest}`)."
        tag_pipeline_run({"deepsynth.decision": UNCHANGED, "mlflow.note.content": text})
        logger.info(text)
    else:
        text = f"The run trains on the data `{digest}`. Champion: {settings.champion}."
    Path(page).parent.mkdir(parents=True, exist_ok=True)
    Path(page).write_text(f"# What this run does\n\n{text}\n", encoding="utf-8")
