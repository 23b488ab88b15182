"""The pipeline compiled for each environment in this repository: the Kubernetes settings of every task."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.versions import code_tag
from pipelines.definition.environment import Environment, read_environment
from tests.fixtures.kfp_api_server import check_package

DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))
ENVIRONMENTS = Path(__file__).parents[2] / "manifests" / "environments"
GPU_TASKS = {"train", "evaluate", "benchmark"}
CONTROL_TASKS = {"configure", "gate", "close-run"}
TASKS = GPU_TASKS | CONTROL_TASKS | {"prepare", "export"}


class Compiled:
    """A compiled package: each task's container, Kubernetes settings and task spec, by the task's name."""

    def __init__(self, environment: Environment, documents: list[dict[str, Any]]) -> None:
        check_package(documents)
        spec, platform = documents
        self.environment, self.kubernetes_config = environment, platform["platforms"]["kubernetes"]
        executors = spec["deploymentSpec"]["executors"]
        self.containers = {name.removeprefix("exec-"): one["container"] for name, one in executors.items()}
        on_kubernetes = self.kubernetes_config["deploymentSpec"]["executors"]
        self.kubernetes = {name.removeprefix("exec-"): one for name, one in on_kubernetes.items()}
        dags = [spec["root"], *(one for one in spec["components"].values() if "dag" in one)]
        self.tasks = {name: task for dag in dags for name, task in dag["dag"]["tasks"].items()}

    def variables(self, task: str) -> dict[str, str]:
        return {one["name"]: one["value"] for one in self.containers[task].get("env", [])}

    def mounts(self, task: str) -> dict[str, str]:
        return {one["mountPath"]: one["constant"] for one in self.kubernetes[task].get("pvcMount", [])}


def compiled(folder: Path, environment: Path, *options: str) -> list[dict[str, Any]]:
    path = folder / "pipeline.yaml"
    command = [DEEPSYNTH, "compile", "-o", str(path), "--environment", str(environment), *options]
    subprocess.run(command, check=True, capture_output=True)
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    path = ENVIRONMENTS / "production.yaml"
    return Compiled(read_environment(path), compiled(tmp_path_factory.mktemp("production"), path))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    path = ENVIRONMENTS / "local.yaml"
    return Compiled(read_environment(path), compiled(tmp_path_factory.mktemp("local"), path))


@pytest.fixture(params=["production", "local"])
def package(request: pytest.FixtureRequest) -> Compiled:
    return request.getfixturevalue(request.param)


def test_every_task_has_a_pinned_image_and_knows_its_run(package: Compiled) -> None:
    assert set(package.containers) == set(package.kubernetes) == TASKS
    for task, container in package.containers.items():
        assert container["image"].endswith(f":{code_tag()}") and "latest" not in container["image"]
        assert package.kubernetes[task]["imagePullPolicy"] == package.environment.image_pull_policy
        (run_id,) = package.kubernetes[task]["fieldPathAsEnv"]
        assert run_id == {"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}


def test_the_gpu_tasks_alone_get_gpus_their_nodes_and_the_large_image(production: Compiled) -> None:
    for task in TASKS:
        resources, settings = production.containers[task]["resources"], production.kubernetes[task]
        image = production.containers[task]["image"].rpartition(":")[0]
        if task in GPU_TASKS:
            assert resources["accelerator"] == {
                "type": "nvidia.com/gpu",
                "resourceType": "nvidia.com/gpu",
                "count": "1",
                "resourceCount": "1",
            }
            assert settings["nodeSelector"] == {"labels": {"nvidia.com/gpu.present": "true"}}
            assert settings["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
            assert image == "registry.example.com/deepsynth/deepsynth-pipelines-python-cuda"
        else:
            assert "accelerator" not in resources
            assert not {"nodeSelector", "tolerations", "emptyDirMounts"} & set(settings)
            assert image == "registry.example.com/deepsynth/deepsynth-pipelines-python"


def test_without_gpus_the_same_tasks_run_in_the_small_image(local: Compiled) -> None:
    for task in TASKS:
        assert "accelerator" not in local.containers[task]["resources"]
        assert not {"nodeSelector", "tolerations"} & set(local.kubernetes[task])
        assert local.containers[task]["image"] == f"deepsynth-pipelines-python:{code_tag()}"


def test_gpu_tasks_have_shared_memory(package: Compiled) -> None:
    for task in GPU_TASKS:
        (mount,) = package.kubernetes[task]["emptyDirMounts"]
        assert (mount["mountPath"], mount["medium"]) == ("/dev/shm", "Memory")
        assert mount["sizeLimit"] == package.environment.shared_memory


def test_requests_and_limits_are_those_of_the_tasks_kind(package: Compiled) -> None:
    kinds = dict.fromkeys(GPU_TASKS, "gpu") | dict.fromkeys(CONTROL_TASKS, "control")
    for task in TASKS:
        expected = getattr(package.environment.resources, kinds.get(task, task))
        resources = package.containers[task]["resources"]
        assert resources["resourceMemoryLimit"] == expected.memory_limit
        assert resources["resourceMemoryRequest"] == expected.memory_request
        assert resources["resourceCpuRequest"] == expected.cpu_request
        assert resources.get("resourceCpuLimit") == expected.cpu_limit
        deadline = package.kubernetes[task].get("activeDeadlineSeconds")
        assert deadline == (str(expected.timeout_seconds) if expected.timeout_seconds else None)


def test_train_alone_has_the_checkpoints_and_the_steps_have_the_cache(package: Compiled) -> None:
    for task in TASKS:
        expected = {} if task in CONTROL_TASKS else {"/cache": "deepsynth-cache"}
        if task == "train":
            expected |= {"/checkpoints": "deepsynth-checkpoints"}
        assert package.mounts(task) == expected
        # configure checks settings that need checkpoints, and mounts nothing.
        told = "/checkpoints" if task in ("train", "configure") else None
        assert package.variables(task).get("DEEPSYNTH_CHECKPOINTS") == told
        assert package.variables(task).get("HF_HOME") == ("/cache/huggingface" if expected else None)
        assert package.variables(task).get("XDG_CACHE_HOME") == ("/cache" if expected else None)


def test_addresses_and_formats_are_variables_and_secrets_are_references(package: Compiled) -> None:
    for task in TASKS:
        variables = package.variables(task)
        assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow.deepsynth:5000"
        assert variables["MLFLOW_EXPERIMENT_NAME"] == "deepsynth"
        assert variables["DEEPSYNTH_LOG"] == "json"
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in variables, "null in both environments"
        assert not [name for name in variables if re.search("TOKEN|PASSWORD|SECRET|KEY", name)]
        hub = package.kubernetes[task]["secretAsEnv"][0]
        assert hub["secretName"] == "deepsynth-hub" and hub["optional"] is True
        assert hub["keyToEnv"] == [{"secretKey": "HF_TOKEN", "envVar": "HF_TOKEN"}]


def test_what_fails_is_tried_again_but_for_configure_and_the_last_task(package: Compiled) -> None:
    for task in TASKS:
        policy = package.tasks[task].get("retryPolicy")
        if task in ("configure", "close-run"):
            assert policy is None
        else:
            assert policy["maxRetryCount"] == package.environment.retries.num_retries
            seconds = package.environment.retries.backoff_duration
            assert policy["backoffDuration"] == seconds and policy["backoffFactor"] == 2


def test_caching_is_off_where_a_second_look_counts(package: Compiled) -> None:
    cached = {name for name, task in package.tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"prepare", "train", "evaluate", "benchmark"}


def test_the_exit_task_gets_what_it_needs(package: Compiled) -> None:
    assert package.tasks["close-run"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert package.tasks["close-run"]["dependentTasks"] == ["exit-handler-1"]
    assert package.variables("close-run")["MLFLOW_TRACKING_URI"]


def test_a_run_and_what_is_left_of_it_have_their_time(production: Compiled, local: Compiled) -> None:
    assert production.kubernetes_config["pipelineConfig"] == {
        "activeDeadlineSeconds": 259200,
        "resourceTtlOnSuccess": 604800,
        "resourceTtlOnFailure": 1209600,
    }
    assert local.kubernetes_config["pipelineConfig"]["activeDeadlineSeconds"] == 7200


def test_further_settings_become_what_their_docstrings_say(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(
        """
        tag: 1-a
        image_pull_secrets: [registry-credentials]
        volumes: [{claim: scanned-documents, mount_path: /documents}]
        env: {HTTPS_PROXY: "http://proxy:3128"}
        otlp_endpoint: http://otel:4318
        security_context: {run_as_user: 1000, run_as_non_root: true}
        gpu: {count: 4, resource: amd.com/gpu, tolerations: [{key: gpu, operator: Equal, value: a100}]}
        mlflow_tracking_uri: null
        mlflow_ca: mlflow-ca
        retries: {num_retries: 0}
        """
    )
    package = Compiled(
        read_environment(tmp_path / "cluster.yaml"),
        compiled(tmp_path, tmp_path / "cluster.yaml", "--prepare-partitions", "2"),
    )
    assert {"select-documents", "draw-pages", "assemble-dataset"} <= set(package.containers)
    for task, settings in package.kubernetes.items():
        assert settings["imagePullSecret"][0]["secretName"] == "registry-credentials"
        assert package.mounts(task) == {"/documents": "scanned-documents"}
        assert settings["securityContext"] == {"runAsUser": "1000", "runAsGroup": "10001", "runAsNonRoot": True}
        assert package.variables(task)["HTTPS_PROXY"] == "http://proxy:3128"
        assert package.variables(task)["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel:4318"
        assert "MLFLOW_TRACKING_URI" not in package.variables(task), "left to KFP's MLflow plugin"
        (authority,) = settings["configMapAsVolume"]
        assert authority["configMapName"] == "mlflow-ca"
        assert package.variables(task)["MLFLOW_TRACKING_SERVER_CERT_PATH"] == f"{authority['mountPath']}/ca.crt"
    accelerator = package.containers["train"]["resources"]["accelerator"]
    assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("amd.com/gpu", "4")
    assert package.kubernetes["train"]["tolerations"] == [{"key": "gpu", "operator": "Equal", "value": "a100"}]
    assert not [name for name, task in package.tasks.items() if "retryPolicy" in task]


def test_the_manifest_is_what_kfps_resource_definitions_want(tmp_path: Path) -> None:
    pipeline, version = compiled(tmp_path, ENVIRONMENTS / "production.yaml", "--kubernetes-manifest")
    # manifests/kustomize/base/crds/pipelines.kubeflow.org_{pipelines,pipelineversions}.yaml of kubeflow/pipelines.
    for document, kind in ((pipeline, "Pipeline"), (version, "PipelineVersion")):
        assert (document["apiVersion"], document["kind"]) == ("pipelines.kubeflow.org/v2beta1", kind)
        assert document["metadata"]["namespace"] == "deepsynth"
        assert re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
    assert pipeline["metadata"]["name"] == version["spec"]["pipelineName"] == "deepsynth-finetune"
    assert set(pipeline["spec"]) <= {"description", "displayName"}
    assert set(version["spec"]) <= {
        *("codeSourceURL", "description", "displayName", "pipelineName", "pipelineSpec", "pipelineSpecURI"),
        "platformSpec",
    }
    assert version["spec"]["displayName"] == code_tag()
    assert version["metadata"]["name"] == f"deepsynth-finetune-{code_tag()}"
    check_package([version["spec"]["pipelineSpec"], version["spec"]["platformSpec"]])


@pytest.mark.parametrize("image", ["registry.example:5000/deepsynth", "registry.example/deepsynth:latest"])
def test_an_image_whose_tag_moves_is_refused(tmp_path: Path, image: str) -> None:
    command = [DEEPSYNTH, "compile", "-o", str(tmp_path / "pipeline.yaml"), "--image", image]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2 and "KFP's cache identifies an image by its name" in answer.stderr
    assert list(tmp_path.iterdir()) == []
