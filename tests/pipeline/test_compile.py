"""The compiled pipeline: what a cluster receives."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.components import load_component_from_file

from components.shared.errors import UserError
from components.shared.versions import code_tag
from pipelines.definition.task_titles import TASK_TITLES
from pipelines.task_side.resolution import resolve

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


def inside(spec: dict[str, Any], *task_names: str) -> dict[str, Any]:
    """Return the tasks of the sub-pipeline at the path ``task_names`` below the root."""
    tasks = spec["root"]["dag"]["tasks"]
    for name in task_names:
        tasks = spec["components"][tasks[name]["componentRef"]["name"]]["dag"]["tasks"]
    return dict(tasks)


def steps_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the steps' tasks, which the exit handler and the decision to train enclose."""
    return inside(spec, "exit-handler-1", "condition-2")


def every_step_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the steps' tasks with those in the condition of the benchmark, which is the last one."""
    tasks = steps_of(spec)
    last = max(name for name in tasks if name.startswith("condition-"))
    return tasks | inside(spec, "exit-handler-1", "condition-2", last)


def the_loop(spec: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the only ParallelFor: its task's name, its task, and the component that it repeats."""
    ((name, task),) = [(n, t) for n, t in steps_of(spec).items() if "parameterIterator" in t]
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
        "skip_if_unchanged",
        "run_pages",
    }
    assert parameters["config"]["defaultValue"] == ""
    assert all(parameter["isOptional"] for parameter in parameters.values())
    assert parameters["max_steps"]["parameterType"] == "NUMBER_INTEGER"
    assert parameters["learning_rate"]["parameterType"] == "NUMBER_DOUBLE"
    # KFP's pages show each parameter's description, which is the setting's own.
    assert parameters["r"]["description"] == "rank of the adapter's matrices"
    assert all(parameter["description"] for parameter in parameters.values())
    of_configure = documents[0]["components"]["comp-configure"]["inputDefinitions"]["parameters"]
    assert set(of_configure) == {*parameters, "run_name"}
    given = documents[0]["root"]["dag"]["tasks"]["configure"]["inputs"]["parameters"]["run_name"]
    assert given["runtimeValue"]["constant"] == "{{$.pipeline_job_name}}", "KFP's driver puts the run's name there"


def test_the_tasks_their_order_and_their_names(documents: tuple[dict, dict]) -> None:
    root, tasks = documents[0]["root"]["dag"]["tasks"], steps_of(documents[0])
    assert {name: set(task.get("dependentTasks", [])) for name, task in (root | tasks).items()} == {
        "configure": set(),
        "exit-handler-1": {"configure"},
        "close-run": {"exit-handler-1"},
        "prepare": set(),
        "train": {"prepare"},
        "evaluate": {"prepare", "train"},
        "gate": {"evaluate"},
        "condition-3": {"prepare", "train", "evaluate", "gate"},
        "condition-4": {"prepare", "train"},
    }
    tasks |= root | every_step_of(documents[0])
    titled = {name: task["taskInfo"]["name"] for name, task in tasks.items() if name in TASK_TITLES}
    assert titled == {name: TASK_TITLES[name] for name in titled}
    assert all(task["taskInfo"]["name"] != name for name, task in tasks.items()), "every task has a display name"


def test_export_is_done_only_where_the_gate_promoted_and_neither_is_ever_cached(documents: tuple[dict, dict]) -> None:
    spec, _ = documents
    condition = steps_of(spec)["condition-3"]
    # The local runner does not find named outputs: "Output" is the name of an unnamed return value.
    assert condition["triggerPolicy"]["condition"] == (
        "inputs.parameter_values['pipelinechannel--gate-Output'] == 'promoted'"
    )
    promoted = inside(spec, "exit-handler-1", "condition-2", "condition-3")
    assert set(promoted) == {"export"}
    assert set(promoted["export"]["inputs"]["artifacts"]) == {"dataset", "adapter", "evaluation", "verdict"}
    for task in (promoted["export"], steps_of(spec)["gate"]):
        assert not task["cachingOptions"].get("enableCache") and task["taskInfo"]["name"] not in ("export", "gate")


def test_the_cache_of_evaluate_sees_another_champion(documents: tuple[dict, dict]) -> None:
    inputs = steps_of(documents[0])["evaluate"]["inputs"]["parameters"]
    assert inputs["champion"]["componentInputParameter"] == "pipelinechannel--configure-champion"


@pytest.mark.parametrize("step", ["train", "evaluate", "benchmark"])
@pytest.mark.parametrize("variant", ["documents", "in_partitions"])
def test_the_cache_of_what_loads_the_base_sees_another_content(
    variant: str, step: str, request: pytest.FixtureRequest
) -> None:
    inputs = every_step_of(request.getfixturevalue(variant)[0])[step]["inputs"]["parameters"]
    assert inputs["base_digest"]["componentInputParameter"] == "pipelinechannel--configure-base_digest"


def test_the_benchmark_hangs_on_its_own_decision(documents: tuple[dict, dict]) -> None:
    spec, _ = documents
    assert steps_of(spec)["condition-4"]["triggerPolicy"]["condition"] == (
        "inputs.parameter_values['pipelinechannel--configure-benchmark_decision'] == 'run'"
    )
    assert set(inside(spec, "exit-handler-1", "condition-2", "condition-4")) == {"benchmark"}
    assert resolve("base_model: tiny-base", {}).benchmark_decision == "run"
    assert resolve("skip: [benchmark]", {}).benchmark_decision == "skip"
    with pytest.raises(UserError, match=r"'skip\.0'.*'benchmark'"):
        resolve("skip: [train]", {})


def test_where_the_data_is_unchanged_no_step_is_started(documents: tuple[dict, dict]) -> None:
    spec, _ = documents
    within = inside(spec, "exit-handler-1")
    assert set(within) == {"condition-2"}, "every step hangs on the decision"
    assert within["condition-2"]["triggerPolicy"]["condition"] == (
        "inputs.parameter_values['pipelinechannel--configure-decision'] == 'train'"
    )


def test_the_exit_task_gets_the_final_state_and_no_sub_pipeline_a_parameter_that_may_be_unset(
    documents: tuple[dict, dict],
) -> None:
    spec, _ = documents
    closing = spec["root"]["dag"]["tasks"]["close-run"]
    assert closing["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert closing["inputs"]["parameters"]["status"]["taskFinalStatus"]["producerTask"] == "exit-handler-1"
    # A null that KFP 2.17's backend resolves for a sub-pipeline's input is an error ("the resolved input parameter is
    # null", backend/src/v2/driver/resolve.go): the exit handler may only get outputs of configure.
    given = spec["root"]["dag"]["tasks"]["exit-handler-1"]["inputs"]["parameters"].values()
    assert {value["taskOutputParameter"]["producerTask"] for value in given} == {"configure"}


def test_what_is_cached(documents: tuple[dict, dict]) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"] | every_step_of(documents[0])
    cached = {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"prepare", "train", "evaluate", "benchmark"}


def test_the_cache_of_prepare_sees_its_own_settings_and_the_sources_content_alone(
    documents: tuple[dict, dict],
) -> None:
    inputs = steps_of(documents[0])["prepare"]["inputs"]["parameters"]
    assert {name: value["componentInputParameter"] for name, value in inputs.items()} == {
        "config": "pipelinechannel--configure-prepare",
        "source_digest": "pipelinechannel--configure-source_digest",
    }


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
    assert {name: set(task.get("dependentTasks", [])) for name, task in steps_of(spec).items()} == {
        "select-documents": set(),
        loop: {"select-documents"},
        "assemble-dataset": {"select-documents", loop},
        "train": {"assemble-dataset"},
        "evaluate": {"assemble-dataset", "train"},
        "gate": {"evaluate"},
        "condition-5": {"assemble-dataset", "train", "evaluate", "gate"},
        "condition-6": {"assemble-dataset", "train"},
    }
    # Collected: the merge gets the loop's list itself, not through a sub-pipeline, where KFP 2.17 loses all but one.
    pages = steps_of(spec)["assemble-dataset"]["inputs"]["artifacts"]["pages"]["taskOutputArtifact"]
    assert pages["producerTask"] == loop
    assert body["outputDefinitions"]["artifacts"][pages["outputArtifactKey"]]["isArtifactList"]
    assert spec["components"]["comp-assemble-dataset"]["inputDefinitions"]["artifacts"]["pages"]["isArtifactList"]


def test_the_tasks_of_the_loop_get_no_other_tasks_parameter(in_partitions: tuple[dict, dict]) -> None:
    # KFP 2.17's local runner would replace each by the loop's item; see pipelines/task_side/partition_tasks.py.
    _, task, body = the_loop(in_partitions[0])
    assert set(task["inputs"]["artifacts"]) == set(body["inputDefinitions"]["artifacts"])
    inputs = body["dag"]["tasks"]["draw-pages"]["inputs"]["parameters"]
    assert inputs["partitions"]["runtimeValue"]["constant"] == 3
    assert inputs["partition"] == {"componentInputParameter": task["parameterIterator"]["itemInput"]}


def test_what_is_cached_in_partitions(in_partitions: tuple[dict, dict]) -> None:
    spec, _ = in_partitions
    loop, _, body = the_loop(spec)
    tasks = {name: task for name, task in every_step_of(spec).items() if name != loop} | body["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"select-documents", "draw-pages", "assemble-dataset", "train", "evaluate", "benchmark"}
    inputs = tasks["select-documents"]["inputs"]["parameters"]
    assert {name: value["componentInputParameter"] for name, value in inputs.items()} == {
        "config": "pipelinechannel--configure-prepare",
        "source_digest": "pipelinechannel--configure-source_digest",
    }
    assert all(task["taskInfo"]["name"] != name for name, task in tasks.items()), "every task has a display name"


def test_without_an_image_it_names_the_one_that_make_images_builds(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEEPSYNTH_")}
    path = tmp_path / "pipeline.yaml"
    subprocess.run([DEEPSYNTH, "compile", "-o", str(path)], check=True, capture_output=True, env=environment)
    spec, _ = yaml.safe_load_all(path.read_text())
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {f"deepsynth-pipelines-python:{code_tag()}"}


def test_one_partition_is_the_pipeline_without_a_loop(package: Path, tmp_path: Path) -> None:
    assert compiled(tmp_path, "--prepare-partitions", "1").read_text() == package.read_text()
