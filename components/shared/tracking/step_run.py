"""MLflow tracking: one nested run per step below one parent run per pipeline run. A dead server stops no step.

Environment: ``MLFLOW_TRACKING_URI`` (default: a SQLite file in the working folder; ``off``: no tracking),
``MLFLOW_EXPERIMENT_NAME``, ``MLFLOW_RUN_ID`` (the task's run of KFP's MLflow plugin, or a run to use as the parent) and
``KFP_RUN_ID`` (the pipeline run).
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from components.shared.errors import without_passwords
from components.shared.telemetry.json_logs import log_context, set_log_context
from components.shared.telemetry.tracing import annotate_step
from components.shared.tracking import logged_values, mlflow_connection, plugin_runs, tracking_runs
from components.shared.tracking.mlflow_connection import TRACKING_OFF

logger = logging.getLogger(__name__)

DEFAULT_EXPERIMENT = "deepsynth"
_LARGEST_BATCH = 1000
# Sending metrics at every training step would add the store's response time to each of them.
_SECONDS_BETWEEN_BATCHES = 2.0
_SECONDS_BETWEEN_SYSTEM_METRICS = 2.0

T = TypeVar("T")


class TrackedRun:
    """The MLflow run that a step logs to. A failing store is logged once; it raises nothing and the step goes on.

    Metrics are buffered and sent in batches. What could not be sent during an outage (metrics, tags, datasets, figures
    of the whole run; not files) is sent when the server is back, or tried once more at the step's end.
    """

    def __init__(self, uri: str) -> None:
        self.run_id: str | None = None
        """The step's run; None if nothing is tracked."""
        self._uri = uri
        self._client: Any = None
        self._parent_id: str | None = None
        self._writes_parent = False
        self._is_plugins = False
        self._monitor: Any = None
        self._metrics: list[tuple[str, float, int, int]] = []
        self._owed: list[Callable[[], Any]] = []
        """what an outage prevented"""
        self._last_batch = time.monotonic()
        self._next_attempt = 0.0
        self._warned = False
        self._outer_run_id = log_context().get("mlflow_run_id")
        """the run of this process that contains this one, e.g. the benchmark's"""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Buffer ``metrics`` (name -> value) for ``step``, e.g. the optimizer step; cheap enough to call at each step.

        Metrics without a step, and tags, also become attributes of the step's OpenTelemetry span.
        """
        if step is None:
            self._annotate(metrics)
        if self.run_id is None:
            return
        now = int(time.time() * 1000)
        self._metrics += [(name, float(value), now, step or 0) for name, value in metrics.items()]
        if time.monotonic() - self._last_batch >= _SECONDS_BETWEEN_BATCHES:
            self._send_metrics()

    def log_dataset(self, digest: str, source: str, context: Literal["training", "evaluation"]) -> None:
        """Log the dataset that this step read; ``source`` is its folder or name.

        MLflow keeps 36 characters of a digest; the tag ``deepsynth.dataset_digest`` has all of them.
        """
        self._annotate({"dataset_digest": digest})
        if self.run_id:
            parent = self._parent_id if self._writes_parent else None
            self._attempt_or_owe(
                partial(logged_values.log_dataset, self._client, self.run_id, parent, digest, source, context)
            )

    def summarize(self, metrics: Mapping[str, float], tags: Mapping[str, str] | None = None) -> None:
        """Log figures, and tags, of the whole pipeline run: on its parent run, by which runs are compared.

        A parent that this project did not create is left as it is.
        """
        if self.run_id is None or not (self._parent_id and self._writes_parent):
            return
        from mlflow.entities import RunTag

        logged = logged_values.metrics_now(metrics)
        marks = [
            RunTag(name, without_passwords(value)[: logged_values.LONGEST_VALUE])
            for name, value in (tags or {}).items()
        ]
        parent = self._parent_id
        self._attempt_or_owe(lambda: self._client.log_batch(parent, metrics=logged, tags=marks, synchronous=True))

    def log_artifact(self, path: Path) -> None:
        """Upload a file, or a folder under its own name.

        Raises:
            FileNotFoundError: ``path`` does not exist.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(path)

        def upload() -> None:
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), artifact_path=path.name)
            else:
                self._client.log_artifact(self.run_id, str(path))

        self._attempt(lambda: mlflow_connection.transferred(upload, f"the upload of {path.name}"))

    def set_tags(self, tags: Mapping[str, str | int | float | bool | None]) -> None:
        """Set tags on the nested run."""
        self._annotate(tags)
        if self.run_id is None:
            return
        from mlflow.entities import RunTag

        entities = [
            RunTag(name, without_passwords(str(value))[: logged_values.LONGEST_VALUE]) for name, value in tags.items()
        ]
        self._attempt_or_owe(lambda: self._client.log_batch(self.run_id, tags=entities, synchronous=True))

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Log parameters of the nested run that are known only after its start; none of them may have been logged."""
        if run_id := self.run_id:
            self._attempt(lambda: logged_values.log_missing(self._client, run_id, parameters))

    def _annotate(self, attributes: Mapping[str, str | int | float | bool | None]) -> None:
        if self._outer_run_id is None:
            annotate_step(attributes)

    def _start(self, step: str, parameters: Mapping[str, Any]) -> None:
        run_id = self._attempt(lambda: self._open(mlflow_connection.connect(self._uri), step), starting=True)
        if run_id is None:
            return
        self.run_id = run_id
        set_log_context(mlflow_run_id=run_id)
        self._annotate({"mlflow_run_id": run_id})
        client, left_out = self._client, plugin_runs.TASK_INPUTS if self._is_plugins else ()
        self._attempt_or_owe(lambda: logged_values.log_parameters(client, run_id, parameters, left_out))
        if parent := self._parent_id if self._writes_parent else None:
            self._attempt_or_owe(lambda: logged_values.log_settings(client, parent, step, parameters))
        self._attempt(self._start_monitor)

    def _open(self, client: Any, step: str) -> str:
        self._client = client
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        tags = {"deepsynth.step": step} | tracking_runs.source_tags()
        pipeline_run = os.environ.get("KFP_RUN_ID")
        if pipeline_run:
            tags[tracking_runs.PIPELINE_RUN_TAG] = pipeline_run
        if attached := os.environ.get("MLFLOW_RUN_ID"):
            if self._outer_run_id is None and (pipeline := plugin_runs.pipeline_run_of_plugin(client, attached)):
                return self._take(client, attached, pipeline, tags)
            self._parent_id = attached
            experiment_id = client.get_run(attached).info.experiment_id
        else:
            experiment_id = tracking_runs.experiment(client, self._uri, name, of_pipelines=True)
            if pipeline_run:
                self._parent_id = tracking_runs.parent_run(client, experiment_id, pipeline_run)
                self._writes_parent = True
                client.update_run(self._parent_id, status="RUNNING")
        if self._parent_id:
            tags["mlflow.parentRunId"] = self._parent_id
        name = tracking_runs.nested_name(client, self._parent_id if self._writes_parent else None, pipeline_run, step)
        return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)

    def _take(self, client: Any, task_run_id: str, pipeline: str, tags: dict[str, str]) -> str:
        """Write into the run that KFP's MLflow plugin made for this task; ``pipeline`` is its run of the pipeline."""
        self._parent_id, self._writes_parent, self._is_plugins = pipeline, True, True
        plugin_runs.take_pipeline_run(client, pipeline, tags.get(tracking_runs.PIPELINE_RUN_TAG))
        plugin_runs.take_task_run(client, task_run_id, tags)
        return task_run_id

    def _start_monitor(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(
            self.run_id, sampling_interval=_SECONDS_BETWEEN_SYSTEM_METRICS, tracking_uri=self._uri
        )
        self._monitor.start()

    def _finish(self, status: str) -> None:
        if self.run_id is None:
            return
        if self._monitor:
            self._monitor.finish()
        self._next_attempt = 0.0  # try once more: the server may be back
        self._send_metrics()
        self._attempt(lambda: self._close(status))
        owed, self._owed = self._owed, []
        for action in owed:
            self._attempt_or_owe(action)
        if parent := self._parent_id if self._writes_parent else None:
            self._attempt(lambda: tracking_runs.describe_parent(self._client, parent))
        set_log_context(mlflow_run_id=self._outer_run_id)
        if left := len(self._metrics) + len(self._owed):
            logger.warning("MLflow: %d values were not logged; the results on disk are complete", left)

    def _close(self, status: str) -> None:
        if self._is_plugins:
            return
        self._client.set_terminated(self.run_id, status=status)
        if self._parent_id and self._writes_parent:
            tracking_runs.settle_parent(self._client, self._parent_id, ended=False)

    def _send_metrics(self) -> None:
        from mlflow.entities import Metric

        self._last_batch = time.monotonic()
        while batch := self._metrics[:_LARGEST_BATCH]:
            if self._attempt(partial(self._send, [Metric(*values) for values in batch])) is None:
                return
            del self._metrics[: len(batch)]

    def _send(self, metrics: list[Any]) -> bool:
        self._client.log_batch(self.run_id, metrics=metrics, synchronous=True)
        return True

    def _attempt(self, action: Callable[[], T], starting: bool = False) -> T | None:
        """Return the action's result; None if nothing is tracked or the store failed, which is logged once."""
        if (self.run_id is None and not starting) or time.monotonic() < self._next_attempt:
            return None
        try:
            return action()
        except Exception as error:  # whatever the store's libraries raise: results are on disk, the step goes on
            self._next_attempt = time.monotonic() + mlflow_connection.SECONDS_BETWEEN_ATTEMPTS
            self._warn(error)
            return None

    def _attempt_or_owe(self, action: Callable[[], Any]) -> None:
        """Do it, or keep it for the step's end if the store failed."""
        if self._attempt(lambda: (action(),)) is None:
            self._owed.append(action)

    def _warn(self, error: Exception) -> None:
        new = mlflow_connection.first_failure(self._uri)
        if new and not self._warned:
            place, reason = without_passwords(self._uri), mlflow_connection.reason(error)
            logger.warning("MLflow tracking at %s failed; the step goes on, its results are on disk: %s", place, reason)
        self._warned = True


@contextmanager
def step_run(step: str, parameters: Mapping[str, Any]) -> Iterator[TrackedRun]:
    """Track a step as an MLflow run named ``step``, nested below the pipeline's run if there is one.

    ``parameters`` become those of the nested run (cut at 6000 characters; its artifact ``config.json`` has them in
    full). An exception in the block marks the run FAILED (KILLED for an interrupt), becomes its tag
    ``deepsynth.error``, and propagates.

    If ``MLFLOW_RUN_ID`` names the run that KFP's MLflow plugin made for this task, the step writes into that run, and
    the plugin closes it. Any other run that it names becomes the parent, and is left as it is.
    """
    uri = mlflow_connection.store_uri()
    tracked = TrackedRun(uri)
    if uri.lower() != TRACKING_OFF:
        tracked._start(step, parameters)
    status = "FAILED"
    try:
        yield tracked
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        tracked.set_tags({"deepsynth.error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        tracked._finish(status)
