"""The pipeline's last task, KFP's exit task: it tells MLflow how the pipeline ended."""

import os

from components.shared.telemetry.logs import configure_logs
from components.shared.tracking.cached_steps import note_cached_benchmark
from components.shared.tracking.pipeline_run import close_pipeline_run, final_status
from pipelines.task_side.ended_pods import endings_of_run


def close_run(state: str) -> None:
    """Close the MLflow parent run of this pipeline run; ``state`` comes from ``PipelineTaskFinalStatus``.

    It sends no events to a local run's watcher: it is not a step, and after a failure the first error counts.
    """
    configure_logs("close")
    # A step that ran out of memory or was killed could not report its end to MLflow.
    endings = endings_of_run(os.environ["KFP_RUN_ID"]) if os.environ.get("KFP_RUN_ID") else {}
    close_pipeline_run(state, endings)
    if final_status(state) in (None, "FINISHED"):
        note_cached_benchmark()
