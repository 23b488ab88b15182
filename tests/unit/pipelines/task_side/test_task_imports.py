"""What the tasks that load no model import: nothing that loads one, so that they cost seconds of CPU time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.definition import tasks
from tests.fixtures.executed_task import IMPORT_TIMES, execute
from tests.fixtures.finished_runs import finished_run

MODELS = {"torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets"}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs"), "r1", [100] * 12) / "evaluation"


def imported(
    name: str, folder: Path, parameters: Mapping[str, Any], inputs: Mapping[str, Path], tracking: str
) -> set[str]:
    """Run a task as a pod does and return the modules that it imported, and the packages that those are in."""
    variables = {"MLFLOW_TRACKING_URI": tracking, "KFP_RUN_ID": "run-1", **IMPORT_TIMES}
    found = execute(getattr(tasks, name), folder / name, parameters, inputs, variables).imported_modules()
    return found | {module.partition(".")[0] for module in found}


def test_configure_imports_no_models_and_mlflow_only_to_name_the_run(tmp_path: Path) -> None:
    """Without tracking there is no run to name, and without a champion it asks no registry."""
    config = "prepare: {max_documents: 40}\n"
    found = imported("configure", tmp_path, {"config": config, "skip_if_unchanged": False}, {}, "off")
    assert "pipelines.task_side.resolution" in found
    assert not found & (MODELS | {"mlflow", "pandas", "pyarrow", "scipy"})


@pytest.mark.slow
def test_gate_and_close_run_import_no_models(tmp_path: Path, evaluation: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = imported("gate", tmp_path, {"config": '{"min_documents": 2}'}, {"evaluation": evaluation}, store)
    assert {"components.gate.verdict.rules", "mlflow"} <= found
    assert not found & MODELS

    found = imported("close_run", tmp_path, {"status": {"state": "SUCCEEDED", "error": {}}}, {}, store)
    assert {"pipelines.task_side.closing_task", "mlflow"} <= found
    assert not found & MODELS
