"""What is logged to an MLflow run: parameters, settings of a whole pipeline, figures, and datasets."""

import json
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from components.shared.errors import without_passwords
from components.shared.programs.step_config import SHARED_SETTINGS
from components.shared.tracking.mlflow_connection import transferred

DATASET_TAG = "deepsynth.dataset_digest"
LONGEST_VALUE = 6000
"""Characters of a parameter's value: the longest that MLflow takes."""
_CONTEXTS_OF_A_PIPELINE = "training, evaluation"
"""Of its dataset, which has pages for both; MLflow keeps one text for each input of a run."""
_LONGEST_DIGEST = 36
_PARAMETERS_PER_BATCH = 100


def log_parameters(client: Any, run_id: str, parameters: Mapping[str, Any], left_out: Collection[str] = ()) -> None:
    """Log ``parameters`` but those ``left_out``, each cut at ``LONGEST_VALUE`` characters.

    The artifact ``config.json`` has all of them in full. Folders are only in the artifact: they are temporary, and
    would differ between any two runs.
    """
    wanted = {name: value for name, value in parameters.items() if not is_folder(name) and name not in left_out}
    log_missing(client, run_id, wanted)
    text = json.dumps(dict(parameters), indent=2, default=str)
    transferred(lambda: client.log_text(run_id, without_passwords(text), "config.json"), "the upload of config.json")


def log_settings(client: Any, parent_id: str, step: str, parameters: Mapping[str, Any]) -> None:
    """Log a step's settings as parameters of the pipeline's run, flat and without folders.

    Those of train, and those that the steps share, keep their Hugging Face or PEFT names; the others get their step's
    name before theirs: ``learning_rate``, ``seed``, ``prepare.augmentation.noise_std``.
    """
    settings = {
        name if step == "train" or name in SHARED_SETTINGS else f"{step}.{name}": value
        for name, value in _flat(parameters).items()
        if not (step == "benchmark" and name.startswith("train"))  # the copy that the benchmark trains with
    }
    log_missing(client, parent_id, settings)


def is_folder(name: str) -> bool:
    """Return whether a setting names a folder of this machine."""
    return name.endswith("_dir")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        elif not is_folder(name):
            found[f"{prefix}{name}"] = value
    return found


def log_missing(client: Any, run_id: str, parameters: Mapping[str, Any]) -> None:
    """Log the parameters that the run does not have: MLflow rejects the whole batch for one that has another value."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    named = {re.sub(r"[^\w./ -]", "_", name): value for name, value in parameters.items()}  # what MLflow allows
    entities = [
        Param(name, without_passwords(str(value))[:LONGEST_VALUE]) for name, value in named.items() if name not in known
    ]
    for start in range(0, len(entities), _PARAMETERS_PER_BATCH):
        client.log_batch(run_id, params=entities[start : start + _PARAMETERS_PER_BATCH], synchronous=True)


def metrics_now(figures: Mapping[str, float]) -> list[Any]:
    """Return MLflow's entities for figures that have no step."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, 0) for name, value in figures.items()]


def log_dataset(client: Any, run_id: str, parent_id: str | None, digest: str, source: str, context: str) -> None:
    """Log a dataset as the input of a step's run and, once, of the pipeline's run ``parent_id``.

    All steps of a pipeline log a dataset under the name that the first one gave it: by another name MLflow takes it for
    another dataset. Its digest column holds 36 characters, a tag has the full digest.

    Args:
        source: the dataset's source or folder; its last part is the name of a dataset that the parent does not have.
        context: what the step's run reads it for.
    """
    from mlflow.entities import Dataset

    known = _dataset_of(client, parent_id, digest) if parent_id else None
    dataset = known or Dataset(
        name=Path(source).name or "dataset",
        digest=digest[:_LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": source, "digest": digest}),
    )
    _log_input(client, run_id, dataset, digest, context)
    if parent_id and known is None:
        _log_input(client, parent_id, dataset, digest, _CONTEXTS_OF_A_PIPELINE)


def take_over_dataset(client: Any, parent_id: str, earlier: Any) -> None:
    """Log the dataset that the run ``earlier`` read as the input of the pipeline's run ``parent_id``, once."""
    digest = earlier.data.tags.get(DATASET_TAG)
    read = earlier.inputs.dataset_inputs if earlier.inputs else []
    if digest and read and _dataset_of(client, parent_id, digest) is None:
        _log_input(client, parent_id, read[0].dataset, digest, _CONTEXTS_OF_A_PIPELINE)


def _dataset_of(client: Any, run_id: str, digest: str) -> Any | None:
    inputs = client.get_run(run_id).inputs
    datasets = [one.dataset for one in (inputs.dataset_inputs if inputs else [])]
    return next((one for one in datasets if one.digest == digest[:_LONGEST_DIGEST]), None)


def _log_input(client: Any, run_id: str, dataset: Any, digest: str, context: str) -> None:
    from mlflow.entities import DatasetInput, InputTag

    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
    client.set_tag(run_id, DATASET_TAG, digest)
