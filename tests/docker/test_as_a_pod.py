"""The steps in containers as strict as their pods, with a champion in a registry whose S3 they cannot reach."""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.docker.conftest import Images
from tests.docker.pods import Pod, make_volume, tracking_behind_s3, wait_for

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can make a volume of root's for another group"),
]

DATASET = ("--dataset_dir", "/volume/dataset")
TRAINING = (
    *DATASET,
    *("--output_dir", "/volume/adapter", "--checkpoint_dir", "/volume/checkpoints", "--save_steps", "2"),
    *("--max_steps", "24", "--per_device_train_batch_size", "2", "-r", "4"),
)


@pytest.fixture
def pod(engine: docker.DockerClient, images: Images, folder: Path) -> Pod:
    return Pod(engine, images.step, make_volume(folder / "volume"))


@pytest.fixture(scope="module")
def dataset(engine: docker.DockerClient, images: Images) -> Iterator[Path]:
    """A dataset that a pod has prepared."""
    with tempfile.TemporaryDirectory(prefix="deepsynth-docker-") as name:
        Path(name).chmod(0o755)
        pod = Pod(engine, images.step, make_volume(Path(name) / "volume"))
        flags = ("--output_dir", "/volume/dataset", "--max_documents", "14", "--max_train_pages", "16")
        code, said = pod.step("prepare", *flags, "--max_eval_pages", "4", "--lines_per_page", "[1, 3]")
        assert code == 0, said[-3000:]
        yield pod.volume / "dataset"


def put_into(pod: Pod, dataset: Path) -> None:
    subprocess.run(["cp", "--archive", dataset, pod.volume], check=True)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_image_gives_its_user_the_group_of_the_volumes(pod: Pod) -> None:
    code, said = pod.answer("sh", "-c", "id -u; id -g; id -G; echo $HOME; touch /volume/x && ls -n /volume/x")
    assert code == 0, said
    uid, gid, groups, home, listed = said.splitlines()
    assert (uid, gid, groups, home) == ("10001", "10001", "10001", "/tmp")
    assert listed.split()[2:4] == ["10001", "10001"]


def test_a_pod_of_another_group_is_told_whose_the_volume_is(pod: Pod, dataset: Path) -> None:
    put_into(pod, dataset)
    code, said = pod.step("train", *TRAINING, user="10001:0")
    error = said.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in said
    assert "belongs to user 0, group 10001 (drwxrwsr-x), this process is user 10001, groups 0" in error
    assert "security_context.run_as_user and run_as_group" in error


def test_a_training_that_is_killed_ends_as_one_that_is_not(pod: Pod, dataset: Path) -> None:
    put_into(pod, dataset)
    code, said = pod.step("train", *TRAINING)
    assert code == 0, said[-3000:]
    whole = sha256(pod.volume / "adapter" / "adapter_model.safetensors")
    (pod.volume / "adapter").rename(pod.volume / "whole")
    with pod.started("python3", "-m", "components.train", *TRAINING) as container:
        written = (pod.volume / "checkpoints").glob
        wait_for(lambda: any(written("*/checkpoint-*/checkpoint.json")), 300, container)
        container.kill()
    code, said = pod.step("train", *TRAINING)
    assert code == 0, said[-3000:]
    training = json.loads((pod.volume / "adapter" / "training.json").read_text())
    assert min(training["resumed_after_steps"]) >= 2 and training["steps"] == 24
    assert sha256(pod.volume / "adapter" / "adapter_model.safetensors") == whole


def test_the_whole_pipeline_with_a_champion_whose_store_the_pods_cannot_reach(
    engine: docker.DockerClient, images: Images, folder: Path, dataset: Path
) -> None:
    with tracking_behind_s3(engine, images, folder) as network:
        variables = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
        pod = Pod(engine, images.step, make_volume(folder / "volume"), network, variables)
        store = "import socket; socket.getaddrinfo('s3', 8333)"
        assert pod.answer("python3", "-c", store)[0] != 0, "a pod must not find the object store"
        put_into(pod, dataset)
        for name, flags in _pipeline("first", champion=False):
            code, said = pod.step(name, *flags)
            assert code == 0, f"{name}: {said[-3000:]}"
        for name, flags in _pipeline("second", champion=True)[:-1]:  # what is exported is the first one
            code, said = pod.step(name, *flags)
            assert code == 0, f"{name}: {said[-3000:]}"
        report = json.loads((pod.volume / "second" / "evaluation" / "report.json").read_text())
        assert {row["name"] for row in report["rows"]} >= {"base", "adapter", "champion"}
        verdict = json.loads((pod.volume / "second" / "gate" / "verdict.json").read_text())
        assert verdict["reference"] == "champion"


def _pipeline(run: str, champion: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Return each step after prepare and its flags; the first run's adapter becomes the second run's champion."""
    at = {name: f"/volume/{run}/{name}" for name in ("adapter", "evaluation", "gate", "package")}
    read = ("--max_new_tokens", "16", "--bootstrap_resamples", "100", "--no-classic_ocr")
    always = ("--min_improvement", "-1000", "--min_documents", "2", "--max_loop_rate_increase", "1")
    inputs = ("--adapter_dir", at["adapter"], "--evaluation_dir", at["evaluation"], "--gate_dir", at["gate"])
    return [
        ("train", (*DATASET, "--output_dir", at["adapter"], "--max_steps", "2", "-r", "4")),
        (
            "evaluate",
            (*DATASET, "--adapter_dir", at["adapter"], "--output_dir", at["evaluation"], *read)
            + (("--champion", "page-reader") if champion else ()),
        ),
        ("gate", ("--evaluation_dir", at["evaluation"], "--output_dir", at["gate"], *always)),
        ("export", (*DATASET, *inputs, "--output_dir", at["package"], "--register_as", "page-reader")),
    ]
