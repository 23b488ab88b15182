"""The compiled pipeline: what a cluster is told."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.components import load_component_from_file

DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))
IMAGE = "registry.example/deepsynth-pipelines-python:1.2.3-abc"


def compiled(folder: Path, *options: str) -> Path:
    path = folder / "pipeline.yaml"
    subprocess.run([DEEPSYNTH, "compile", "-o", str(path), "--image", IMAGE, *options], check=True, capture_output=True)
    assert [file.name for file in path.parent.iterdir()] == ["pipeline.yaml"]
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def documents(package: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.safe_load_all(package.read_text())
    return spec, platform


@pytest.fixture(scope="module")
def in_partitions(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    path = compiled(tmp_path_factory.mktemp("partitions"), "--prepare-partitions", "3")
    spec, platform = yaml.safe_load_all(path.read_text())
    return spec, platform


def the_loop(spec: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the only ParallelFor: its task's name, its task, and the component that it repeats."""
    ((name, task),) = [(n, t) for n, t in spec["root"]["dag"]["tasks"].items() if "parameterIterator" in t]
    return name, task, spec["components"][task["componentRef"]["name"]]


def test_it_loads_and_has_optional_parameters_only(package: Path, documents: tuple[dict, dict]) -> None:
    assert load_component_from_file(str(package)).name == "deepsynth-finetune"
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {
        "config",
        "source",
        "base_model",
        "seed",
        "max_documents",
        "learning_rate",
        "max_steps",
        "num_train_epochs",
        "per_device_train_batch_size",
        "r",
        "lora_alpha",
        "load_in_4bit",
    }
    assert parameters["config"]["defaultValue"] == ""
    assert all(parameter["isOptional"] for parameter in parameters.values())
    assert parameters["max_steps"]["parameterType"] == "NUMBER_INTEGER"
    assert parameters["learning_rate"]["parameterType"] == "NUMBER_DOUBLE"


def test_the_tasks_their_order_and_their_names(documents: tuple[dict, dict]) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"]
    assert {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()} == {
        "configure": set(),
        "prepare": {"configure"},
        "train": {"configure", "prepare"},
        "evaluate": {"configure", "prepare", "train"},
        "benchmark": {"configure", "prepare", "train"},
        "gate": {"configure", "evaluate"},
        "condition-1": {"configure", "prepare", "train", "evaluate", "gate"},
    }
    assert all(task["taskInfo"]["name"] != name for name, task in tasks.items()), "every task has a display name"


def test_export_is_done_only_where_the_gate_promoted_and_neither_is_ever_cached(documents: tuple[dict, dict]) -> None:
    spec, _ = documents
    condition = spec["root"]["dag"]["tasks"]["condition-1"]
    # The local runner finds no output by a name: "Output" is that of a return value without one.
    assert condition["triggerPolicy"]["condition"] == (
        "inputs.parameter_values['pipelinechannel--gate-Output'] == 'promoted'"
    )
    inside = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    assert set(inside) == {"export"}
    assert set(inside["export"]["inputs"]["artifacts"]) == {"dataset", "adapter", "evaluation", "verdict"}
    for task in (inside["export"], spec["root"]["dag"]["tasks"]["gate"]):
        assert not task["cachingOptions"].get("enableCache") and task["taskInfo"]["name"] not in ("export", "gate")


def test_the_cache_of_evaluate_sees_another_champion(documents: tuple[dict, dict]) -> None:
    inputs = documents[0]["root"]["dag"]["tasks"]["evaluate"]["inputs"]["parameters"]
    assert inputs["champion"]["taskOutputParameter"]["outputParameterKey"] == "champion"


def test_what_is_cached(documents: tuple[dict, dict]) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"prepare", "train", "evaluate", "benchmark"}


def test_the_cache_of_prepare_sees_its_own_settings_and_the_sources_content_alone(
    documents: tuple[dict, dict],
) -> None:
    inputs = documents[0]["root"]["dag"]["tasks"]["prepare"]["inputs"]["parameters"]
    outputs = {name: value["taskOutputParameter"]["outputParameterKey"] for name, value in inputs.items()}
    assert outputs == {"config": "prepare", "source_digest": "source_digest"}


@pytest.mark.parametrize("variant", ["documents", "in_partitions"])
def test_image_and_run_id_of_every_task(variant: str, request: pytest.FixtureRequest) -> None:
    spec, platform = request.getfixturevalue(variant)
    executors = spec["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {IMAGE}
    on_cluster = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(on_cluster) == set(executors)
    for settings in on_cluster.values():
        assert settings["fieldPathAsEnv"] == [{"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]


def test_partitions_are_a_parallel_for_and_a_merge_of_what_it_collects(in_partitions: tuple[dict, dict]) -> None:
    spec, _ = in_partitions
    loop, task, body = the_loop(spec)
    assert task["parameterIterator"]["items"] == {"raw": "[0, 1, 2]"}
    assert "iteratorPolicy" not in task, "the cluster decides how many are drawn at once"
    assert set(body["dag"]["tasks"]) == {"draw-pages"}
    assert {name: set(task.get("dependentTasks", [])) for name, task in spec["root"]["dag"]["tasks"].items()} == {
        "configure": set(),
        "select-documents": {"configure"},
        loop: {"select-documents"},
        "assemble-dataset": {"configure", "select-documents", loop},
        "train": {"configure", "assemble-dataset"},
        "evaluate": {"configure", "assemble-dataset", "train"},
        "benchmark": {"configure", "assemble-dataset", "train"},
        "gate": {"configure", "evaluate"},
        "condition-3": {"configure", "assemble-dataset", "train", "evaluate", "gate"},
    }
    # Collected: the merge gets the loop's list itself, not through a sub-pipeline, where KFP 2.17 loses all but one.
    pages = spec["root"]["dag"]["tasks"]["assemble-dataset"]["inputs"]["artifacts"]["pages"]["taskOutputArtifact"]
    assert pages["producerTask"] == loop
    assert body["outputDefinitions"]["artifacts"][pages["outputArtifactKey"]]["isArtifactList"]
    assert spec["components"]["comp-assemble-dataset"]["inputDefinitions"]["artifacts"]["pages"]["isArtifactList"]


def test_the_loop_gets_no_other_tasks_parameter(in_partitions: tuple[dict, dict]) -> None:
    # KFP 2.17's local runner would replace each by the loop's item; see pipelines/partition_tasks.py.
    _, task, body = the_loop(in_partitions[0])
    assert "parameters" not in task["inputs"] and set(task["inputs"]["artifacts"]) == set(
        body["inputDefinitions"]["artifacts"]
    )
    inputs = body["dag"]["tasks"]["draw-pages"]["inputs"]["parameters"]
    assert inputs["partitions"]["runtimeValue"]["constant"] == 3
    assert inputs["partition"] == {"componentInputParameter": task["parameterIterator"]["itemInput"]}


def test_what_is_cached_in_partitions(in_partitions: tuple[dict, dict]) -> None:
    spec, _ = in_partitions
    loop, _, body = the_loop(spec)
    tasks = {name: task for name, task in spec["root"]["dag"]["tasks"].items() if name != loop} | body["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"select-documents", "draw-pages", "assemble-dataset", "train", "evaluate", "benchmark"}
    inputs = tasks["select-documents"]["inputs"]["parameters"]
    outputs = {name: value["taskOutputParameter"]["outputParameterKey"] for name, value in inputs.items()}
    assert outputs == {"config": "prepare", "source_digest": "source_digest"}
    assert all(task["taskInfo"]["name"] != name for name, task in tasks.items()), "every task has a display name"


def test_one_partition_is_the_pipeline_without_a_loop(package: Path, tmp_path: Path) -> None:
    assert compiled(tmp_path, "--prepare-partitions", "1").read_text() == package.read_text()
