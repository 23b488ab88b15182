"""A saved view of the experiment in MLflow's UI: the columns and charts by which pipeline runs are compared.

MLflow's UI has no API for this. It keeps a saved view as a tag of the experiment, in the form that is written here
(seen with MLflow 3.17.2), and opens it by its key in the address. Other versions may not know it: then the tag does
nothing.
"""

import base64
import json
import time
import zlib
from typing import Any

_TAG = "mlflow.sharedViewState."
_KEY = "deepsynth"
_NAME = "error rates and settings"
_COLUMNS = (
    "tags.`gate`",
    "metrics.`adapter_cer`",
    "metrics.`base_cer`",
    "metrics.`cer_improvement`",
    "params.`learning_rate`",
    "params.`max_steps`",
    "params.`base_model`",
    "attributes.`Dataset`",
)
_HEADLINE = "deepsynth-error-rates"


def saved_view() -> dict[str, str]:
    """Return the experiment's tag: name -> value."""
    now = int(time.time() * 1000)
    packed = base64.b64encode(zlib.compress(json.dumps(_state()).encode())).decode()
    view = {"name": _NAME, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    return {_TAG + _KEY: json.dumps(view)}


def runs_address(experiment: Any) -> str:
    """Return the address of an experiment's runs below that of MLflow's server, in the saved view if it has one."""
    view = f"&viewStateShareKey={_KEY}" if _TAG + _KEY in experiment.tags else ""
    # Without the workflow type the menu offers what is for GenAI experiments.
    return f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning{view}"


def _state() -> dict[str, Any]:
    charts: list[dict[str, Any]] = [
        {"type": "PARALLEL", "selectedParams": ["learning_rate"], "selectedMetrics": ["train_loss", "adapter_cer"]},
        *({"type": "BAR", "metricKey": name, "displayName": name} for name in ("adapter_cer", "cer_improvement")),
    ]
    of_every_chart: dict[str, Any] = {
        "runsCountToCompare": 10,
        "metricSectionId": _HEADLINE,
        "deleted": False,
        "isGenerated": False,
    }
    return {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": _COLUMNS,
        "columnOrder": _COLUMNS,
        "columnWidths": {},
        "compareRunSections": [
            _section(_HEADLINE, "Error rates and learning rate", generated=False),
            _section("deepsynth-model-metrics", "Model metrics", generated=True),
            _section("deepsynth-system-metrics", "System metrics", generated=True),
        ],
        "compareRunCharts": [
            {"uuid": f"deepsynth-{number}"} | chart | of_every_chart for number, chart in enumerate(charts)
        ],
    }


def _section(uuid: str, name: str, *, generated: bool) -> dict[str, Any]:
    """Return a group of charts; MLflow's UI adds a chart for each metric to those that are ``generated``."""
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": generated,
    }
