"""The MLflow runs that made artifacts, in the artifacts' metadata: all that a step from KFP's cache leaves of its run.

KFP keeps an artifact's metadata with its cached output. An artifact also names the runs that made its task's inputs, so
that the gate, which is never cached, knows the training's run from the evaluation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.tracking import headline
from components.shared.tracking.cached_steps import note_cached_step
from components.shared.tracking.ended_runs import ended_run

RUN_KEY = "mlflow_run_id"
EXPERIMENT_KEY = "mlflow_experiment_id"


def name_run(artifact: Any, step: str, **inputs: Any) -> None:
    """Note the MLflow run of ``step`` in the metadata of its output, if there is one, and the runs of its ``inputs``.

    Args:
        inputs: a step -> the artifact of its output.
    """
    if run := ended_run(step):
        artifact.metadata[RUN_KEY] = run.run_id
        artifact.metadata[EXPERIMENT_KEY] = run.experiment_id
    for made_by, given in _runs(inputs).items():
        artifact.metadata[f"{made_by}_{RUN_KEY}"] = given


def note_cached_inputs(task: str, **inputs: Any) -> None:
    """Note on the MLflow parent which steps KFP's cache answered: those whose output another pipeline run made.

    Args:
        inputs: a step -> the artifact of its output.
    """
    for step, run_id in (dict.fromkeys(inputs) | _runs(inputs)).items():
        note_cached_step(step, run_id, _figures(step, inputs.get(step)))


def _runs(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return step -> MLflow run, as far as the artifacts name them, for their own steps and those before."""
    found: dict[str, str] = {}
    for step, artifact in inputs.items():
        for key, value in artifact.metadata.items():
            if key == RUN_KEY:
                found[step] = value
            elif key.endswith(f"_{RUN_KEY}"):
                found.setdefault(key.removesuffix(f"_{RUN_KEY}"), value)
    return found


def _figures(step: str, artifact: Any | None) -> dict[str, float] | None:
    """Return a step's figures from its file, which is there even if its MLflow run is gone."""
    if artifact is None:
        return None
    folder = Path(artifact.path)
    if step == "evaluate" and (folder / EvaluationReport.FILE).is_file():
        return headline.of_evaluation(EvaluationReport.read(folder))
    if step == "train" and (folder / TrainingRecord.FILE).is_file():
        return headline.of_training(TrainingRecord.read(folder))
    return None
