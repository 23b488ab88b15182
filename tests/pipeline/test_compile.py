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


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    subprocess.run([DEEPSYNTH, "compile", "-o", str(path), "--image", IMAGE], check=True, capture_output=True)
    assert [file.name for file in path.parent.iterdir()] == ["pipeline.yaml"]
    return path


@pytest.fixture(scope="module")
def documents(package: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.safe_load_all(package.read_text())
    return spec, platform


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
        "export": {"configure", "prepare", "train", "evaluate"},
    }
    assert all(task["taskInfo"]["name"] != name for name, task in tasks.items()), "every task has a display name"


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


def test_image_and_run_id_of_every_task(documents: tuple[dict, dict]) -> None:
    spec, platform = documents
    executors = spec["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {IMAGE}
    on_cluster = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(on_cluster) == set(executors)
    for settings in on_cluster.values():
        assert settings["fieldPathAsEnv"] == [{"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]
