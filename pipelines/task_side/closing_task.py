"""The pipeline's last task, KFP's exit task: MLflow learns how the pipeline ended."""

from components.shared.telemetry.logs import configure_logs
from components.shared.tracking.pipeline_run import close_pipeline_run


def close_run(state: str) -> None:
    """Close the MLflow parent run of this pipeline run; ``state`` is that of ``PipelineTaskFinalStatus``.

    It tells the watcher of a local run nothing: it is no step, and after a failure the first error counts.
    """
    configure_logs("close")
    close_pipeline_run(state)
