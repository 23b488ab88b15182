"""Schedules in KFP: one run at a time, without catching up on missed runs."""

from typing import Any

from kfp_server_api import (
    RecurringRunMode,
    V2beta1CronSchedule,
    V2beta1RecurringRun,
    V2beta1RuntimeConfig,
    V2beta1Trigger,
)

from components.shared.errors import UserError
from pipelines.cluster.cluster_runs import experiment_id, plugins_input, version_reference
from pipelines.cluster.cron import next_time
from pipelines.cluster.kfp_api import KfpApi
from pipelines.cluster.pipeline_package import UploadedVersion
from pipelines.definition.environment import Environment


def create_recurring_run(
    api: KfpApi,
    environment: Environment,
    version: UploadedVersion,
    name: str,
    cron: str,
    parameters: dict[str, Any],
) -> None:
    """Create a schedule of ``version``; ``cron`` has KFP's six fields."""
    recurring = V2beta1RecurringRun(
        display_name=name,
        experiment_id=experiment_id(api, environment.experiment),
        namespace=api.namespace,
        pipeline_version_reference=version_reference(version),
        runtime_config=V2beta1RuntimeConfig(parameters=parameters),
        service_account=environment.service_account,
        plugins_input=plugins_input(environment),
        max_concurrency="1",
        no_catchup=True,
        mode=RecurringRunMode.ENABLE,
        trigger=V2beta1Trigger(cron_schedule=V2beta1CronSchedule(cron=cron)),
    )
    api.call("recurring_runs", "recurring_run_service_create_recurring_run", recurring_run=recurring)


def described(api: KfpApi, recurring: Any, scheduler_zone: str) -> tuple[str, ...]:
    """Return name, state, cron fields, next start, whether unchanged data is skipped, and the pipeline's version."""
    on = recurring.status == "ENABLED"
    cron = recurring.trigger.cron_schedule.cron if recurring.trigger and recurring.trigger.cron_schedule else ""
    moment = next_time(cron, scheduler_zone) if on and cron else None
    parameters = (recurring.runtime_config.parameters if recurring.runtime_config else None) or {}
    return (
        recurring.display_name,
        "on" if on else "paused",
        cron or "not by cron",
        f"{moment:%a %Y-%m-%d %H:%M} {scheduler_zone}" if moment else "–",
        "yes" if parameters.get("skip_if_unchanged") else "no",
        _version_name(api, recurring.pipeline_version_reference),
    )


def _version_name(api: KfpApi, reference: Any) -> str:
    if reference is None or not reference.pipeline_version_id:
        return "–"
    try:
        version = api.call(
            "pipelines",
            "pipeline_service_get_pipeline_version",
            pipeline_id=reference.pipeline_id,
            pipeline_version_id=reference.pipeline_version_id,
        )
    except UserError:
        return f"{reference.pipeline_version_id} (deleted)"
    return str(version.display_name)
