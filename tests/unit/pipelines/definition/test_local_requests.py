"""The requests of local.yaml follow from what the quickstart's tasks took, and fit the machine that it names."""

import json
import re
from pathlib import Path

import pytest
from kubernetes.utils.quantity import parse_quantity

from pipelines.definition.environment import Resources, read_environment
from pipelines.definition.task_titles import TASK_KINDS
from tests.benchmarks.task_costs import table

ROOT = Path(__file__).parents[4]
LOCAL = ROOT / "manifests" / "environments" / "local.yaml"
MEASURED = json.loads((ROOT / "docs" / "benchmarks" / "tasks" / "quickstart.json").read_text())
TASKS = {one["task"]: one for one in MEASURED["tasks"]}
MIB, GIB = 2**20, 2**30
# Of the node, by KFP, Argo, MLflow and its stores on the cluster of docs/cluster.md.
OTHERS = {"cpu": 0.92, "memory": 3 * GIB}
# KFP 2.17's driver: driverResources in backend/src/v2/compiler/argocompiler.
DRIVER = {"cpu": 0.1, "memory": 64 * MIB}


def resources(task: str) -> Resources:
    found: Resources = getattr(read_environment(LOCAL).resources, TASK_KINDS[task])
    return found


def requested(name: str, *tasks: str) -> float:
    return sum(float(parse_quantity(getattr(resources(task), f"{name}_request"))) for task in tasks)


def test_every_task_was_measured() -> None:
    parts = {"select-documents", "draw-pages", "assemble-dataset"}  # of prepare
    assert set(TASKS) == set(TASK_KINDS) - parts


@pytest.mark.parametrize("task", TASKS)
def test_a_task_gets_the_memory_that_it_took(task: str) -> None:
    """With a tenth more; the limit is at least twice of it, for other documents and models."""
    took = TASKS[task]["memory_mib"] * MIB
    given = resources(task)
    assert given.memory_request and parse_quantity(given.memory_request) >= 1.1 * took
    assert given.memory_limit and parse_quantity(given.memory_limit) >= 2 * took


@pytest.mark.parametrize("side_by_side", [("evaluate", "benchmark"), ("prepare",), ("export",)])
def test_what_runs_at_once_fits_the_machine_with_a_driver_for_each(side_by_side: tuple[str, ...]) -> None:
    """Evaluate and benchmark are the tasks that run side by side."""
    words = re.search(r"fits into (\d+) CPUs and (\d+) GiB", LOCAL.read_text())
    assert words
    machine = {"cpu": float(words[1]), "memory": float(words[2]) * GIB}
    for name, there in machine.items():
        wanted = OTHERS[name] + requested(name, *side_by_side) + DRIVER[name] * len(side_by_side)
        assert wanted <= there, f"{name}: {wanted} of {there}"


def test_the_page_has_the_measured_table() -> None:
    page = (ROOT / "docs" / "benchmarks" / "tasks" / "README.md").read_text()
    assert table(MEASURED["tasks"]) in page
    assert MEASURED["machine"]["processor"] in page
