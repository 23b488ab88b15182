"""The pipeline's first task: turn configuration and parameters into checked settings for each step."""

import logging
from pathlib import Path
from typing import Any

from components.shared.models.base_content import base_digest
from components.shared.models.base_models import check_base_model_can_be_had
from components.shared.models.processor_packages import check_processor_packages
from components.shared.models.refused_families import base_family, check_family_is_supported
from components.shared.programs.step_config import parse_config_text, validated
from components.shared.tracking.cached_steps import BENCHMARK_INPUTS_TAG, benchmark_inputs
from components.shared.tracking.model_registry import SOURCE_DIGEST_TAG, RegisteredAdapter, champion_of
from components.shared.tracking.pipeline_run import name_pipeline_run, tag_pipeline_run
from components.shared.tracking.run_description import REASON_TAG
from components.shared.tracking.tracking_runs import DECISION_TAG
from pipelines.settings.parameter_text import parameter_text, parameter_word
from pipelines.settings.pipeline_config import pipeline_config, quickstart_values, with_overrides
from pipelines.settings.pipeline_parameters import overrides
from pipelines.settings.step_sections import STEP_CONFIGS
from pipelines.task_side.document_checks import check_documents
from pipelines.task_side.input_checks import check_inputs
from pipelines.task_side.late_refusals import check_late_steps, check_served_family
from pipelines.task_side.persistent_folders import keeps_checkpoints
from pipelines.task_side.run_identity import run_identity
from pipelines.task_side.step_settings import RUN, SKIP, TRAIN, UNCHANGED, StepSettings
from pipelines.task_side.task_entry import task

logger = logging.getLogger(__name__)


def configure(
    config: str, parameters: dict[str, Any], skip_if_unchanged: bool, page: str, run_name: str = "", run_pages: str = ""
) -> StepSettings:
    """Run the configure task: return every step's settings, and write the Markdown ``page`` with the decision.

    The run's MLflow parent gets the run's name, and a link to its page below ``run_pages``. It is made last: if the
    settings are refused, no later task would close it.
    """
    with task("configure"):
        settings = resolve(config, parameters, skip_if_unchanged=skip_if_unchanged)
        inputs = benchmark_inputs(settings.benchmark, settings.base_digest)
        name_pipeline_run(*run_identity(run_name, run_pages), {BENCHMARK_INPUTS_TAG: inputs})
        say_decision(settings, page)
        return settings


def resolve(config: str, parameters: dict[str, Any], *, skip_if_unchanged: bool = False) -> StepSettings:
    """Return every step's settings; ``config`` is YAML or JSON text, empty for the quickstart preset.

    Parameters override ``config`` before anything is checked; those that are None override nothing. With
    ``skip_if_unchanged`` the decision is ``UNCHANGED`` if the champion was trained on the same source content.

    Raises:
        UserError: a key or value is wrong; the source, the base model or the champion's registry cannot be reached; or
            a late step is sure to refuse the settings: an upload without a token, a gate over training pages.
    """
    from components.prepare.config import PrepareConfig
    from components.prepare.selection.dataset_sources import sources_digest

    values = parse_config_text(config, "config") if config.strip() else quickstart_values()
    given = overrides(parameters)
    values = with_overrides(values, given)
    checked = pipeline_config(values, "config and parameters" if given else "config", checkpoints=keeps_checkpoints())
    settings = {step: checked.step_settings(step) for step in STEP_CONFIGS}
    check_late_steps(settings)
    check_base_model_can_be_had(checked.base_model, checked.revision)
    check_family_is_supported(checked.base_model, checked.revision)
    family = base_family(checked.base_model, checked.revision)
    check_served_family(settings, family)
    check_processor_packages(family.name, checked.base_model)
    if settings["prepare"]["min_letter_height"] is None:
        settings["prepare"]["min_letter_height"] = family.least_letter_height
    settings["prepare"]["min_eval_documents"] = settings["gate"]["min_documents"]
    prepare = validated(PrepareConfig, settings["prepare"] | {"output_dir": "."}, "prepare")
    check_inputs(settings, prepare, family)
    check_documents(prepare, settings["gate"]["min_documents"], settings["evaluate"]["max_pages"])
    digest = sources_digest(prepare)
    # Asked now, so that an unreachable registry costs no training.
    name = settings["evaluate"].get("champion")
    champion = champion_of(name) if name else None
    decision = _decision(digest, champion) if skip_if_unchanged else TRAIN
    return StepSettings(
        decision=decision,
        benchmark_decision=SKIP if "benchmark" in checked.skip else RUN,
        source_digest=digest,
        base_digest=base_digest(checked.base_model, checked.revision),
        champion=parameter_word(str(champion or "none")),
        **{step: parameter_text(values) for step, values in settings.items()},
    )


def _decision(digest: str, champion: RegisteredAdapter | None) -> str:
    if champion is None:
        logger.info("skip_if_unchanged: there is no champion (evaluate.champion), so the run trains")
        return TRAIN
    return UNCHANGED if champion.tags.get(SOURCE_DIGEST_TAG) == digest else TRAIN


def say_decision(settings: StepSettings, page: str) -> None:
    """Write the Markdown ``page`` that says what the run does; if it does nothing, tag its MLflow run."""
    digest = settings.source_digest
    if settings.decision == UNCHANGED:
        text = f"Nothing is trained: {settings.champion}, the champion, knows this data already (`{digest}`)."
        tag_pipeline_run({DECISION_TAG: UNCHANGED, REASON_TAG: text})
        logger.info(text)
    else:
        text = f"The run trains on the data `{digest}`. Champion: {settings.champion}."
    Path(page).parent.mkdir(parents=True, exist_ok=True)
    Path(page).write_text(f"# What this run does\n\n{text}\n", encoding="utf-8")
