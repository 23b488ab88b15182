"""The runs that KFP's MLflow plugin makes: one for the pipeline run, below it one for each sub-pipeline and each task.

With ``injectUserEnvVars`` the plugin names a task's run in ``MLFLOW_RUN_ID``. A step writes into that run, and the
pipeline's figures into the run at the top; the plugin names, opens and closes both. At a task's end it logs the task's
inputs as parameters, in one batch with its metrics, which MLflow rejects if one of them has another value by then.
"""

from typing import Any

from components.shared.tracking import tracking_runs

_PLUGIN_TAG = "kfp.pipeline_run_id"
TASK_INPUTS = ("config", "source_digest", "base_digest", "champion", "partition", "partitions")
"""Inputs of the steps' tasks: no setting is logged by these names to a run of the plugin's."""
_ERROR_TAG = "deepsynth.error"


def pipeline_run_of_plugin(client: Any, task_run_id: str) -> str | None:
    """Return the plugin's run of the whole pipeline; None if ``task_run_id`` is not the run of one of its tasks."""
    top = tracking_runs.top_parent(client, client.get_run(task_run_id))
    return str(top.info.run_id) if top and _PLUGIN_TAG in top.data.tags else None


def take_task_run(client: Any, task_run_id: str, tags: dict[str, str]) -> None:
    """Make the plugin's run of a task that of a step; a task that KFP starts again has the same run."""
    for name, value in tags.items():
        client.set_tag(task_run_id, name, value)
    if _ERROR_TAG in client.get_run(task_run_id).data.tags:
        client.delete_tag(task_run_id, _ERROR_TAG)


def take_pipeline_run(client: Any, run_id: str, pipeline_run: str | None) -> None:
    """Make the plugin's run of the pipeline findable as the parent of ``pipeline_run``'s steps."""
    tags = tracking_runs.parent_tags(pipeline_run) if pipeline_run else {}
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
