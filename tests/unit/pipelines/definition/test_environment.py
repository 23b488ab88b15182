"""The environment's file: what is accepted, and how errors are reported."""

from pathlib import Path

import pytest

from components.shared.errors import UserError
from components.shared.versions import code_tag
from pipelines.definition.environment import Environment, read_environment
from pipelines.definition.environment_reference import reference

ENVIRONMENTS = Path(__file__).parents[4] / "manifests" / "environments"


def read(tmp_path: Path, text: str) -> Environment:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return read_environment(path)


def test_off_needs_no_quotes(tmp_path: Path) -> None:
    assert read(tmp_path, "mlflow_tracking_uri: off").mlflow_tracking_uri == "off"


@pytest.mark.parametrize("name", ["local", "production"])
def test_the_environments_that_come_with_the_project_can_be_read(name: str) -> None:
    environment = read_environment(ENVIRONMENTS / f"{name}.yaml")
    assert environment.tag is None and environment.image.endswith(f":{code_tag()}")
    assert environment.service_account == "deepsynth-pipeline"
    assert environment.checkpoints and environment.checkpoints.claim == "deepsynth-checkpoints"


def test_images_are_named_by_registry_and_version_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.shared.versions.git_commit", lambda: "0123456789abcdef" * 2)
    environment = read(tmp_path, "registry: ghcr.io/owner")
    assert environment.gpu_image.startswith("ghcr.io/owner/deepsynth-pipelines-python-cuda:")
    assert environment.image.endswith("-0123456789ab") and "+" not in environment.image
    without = read(tmp_path, "gpu: {count: 0}\ntag: 1-a")
    assert without.image == without.gpu_image == "deepsynth-pipelines-python:1-a"


def test_without_a_commit_a_tag_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.shared.versions.git_commit", lambda: None)
    with pytest.raises(UserError, match="the code's commit is not known"):
        _ = read(tmp_path, "").image
    assert read(tmp_path, "tag: 1-a").image.endswith(":1-a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("regsitry: x", "unknown key 'regsitry' (did you mean 'registry'?)"),
        ("gpu: {cuont: 1}", "unknown key 'gpu.cuont' (did you mean 'count'?)"),
        ("gpu: {count: -1}", "'gpu.count'"),
        ("tag: latest", "'tag': KFP's cache knows the image by its name only"),
        ("tag: a b", "'tag': not an image's tag"),
        ("registry: ghcr.io/owner/", "'registry': must be such as ghcr.io/owner, with no slash last"),
        ("registry: https://ghcr.io", "'registry': must be"),
        (
            "cache: {claim: a, mount_path: /a}\nvolumes: [{claim: b, mount_path: /a/}]",
            "two volumes have the mount_path /a",
        ),
        ("namespace: Deep_Synth", "'namespace'"),
        ("host: kfp.example", "'host': must be an address such as"),
        ("resources: {gpu: {memory_limit: 64 GB}}", "'resources.gpu.memory_limit'"),
        ("resources: {gpu: {memory_limit: 64GiB}}", "'resources.gpu.memory_limit'"),
        ("resources: {prepare: {cpu_limit: 0.5m}}", "'resources.prepare.cpu_limit'"),
        ("resources: {prepare: {timeout_seconds: 0}}", "'resources.prepare.timeout_seconds'"),
        ("checkpoints: {claim: deepsynth_checkpoints, mount_path: /checkpoints}", "'checkpoints.claim'"),
        ("checkpoints: {claim: deepsynth-checkpoints, mount_path: checkpoints}", "'checkpoints.mount_path'"),
        ("secrets: [{name: hub, keys: {HF_TOKEN: HF-TOKEN}}]", "'secrets.0.keys.HF_TOKEN'"),
        ("gpu: {tolerations: [{operator: Equal, key: gpu}]}", "operator Equal needs a key and a value"),
        ("gpu: {tolerations: [{effect: NoRun}]}", "'gpu.tolerations.0.effect'"),
        ("gpu: {node_selector: {a b: c}}", "'gpu.node_selector.a b.[key]'"),
        ("retries: {backoff_duration: soon}", "'retries.backoff_duration'"),
        ("mlflow_tracking_uri: mlflow", "mlflow_tracking_uri"),
        ("scheduler_timezone: Mars/Phobos", "no such time zone"),
        ("env: {A-B: c}", "'env.A-B.[key]'"),
        ("- a", "must hold one mapping"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, text)
    assert "cluster.yaml" in str(refused.value) and said in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: the config file cannot be read"):
        read_environment(tmp_path / "nowhere.yaml")


def test_the_reference_in_the_docs_is_that_of_the_fields() -> None:
    page = (ENVIRONMENTS.parents[1] / "docs" / "environments.md").read_text(encoding="utf-8")
    assert page.endswith(f"\n{reference()}\n"), "python -m pipelines.definition.environment_reference"
    rows = reference().splitlines()[2:]
    assert all(len(row.split(" | ")[2].strip(" |")) > 5 for row in rows), "every key says what it is"


def test_a_certificate_needs_a_tls_address(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mlflow_ca certifies an https:// server"):
        read(tmp_path, "mlflow_tracking_uri: http://mlflow.deepsynth:5000\nmlflow_ca: mlflow-ca")
    assert read(tmp_path, "mlflow_tracking_uri: https://mlflow:5000\nmlflow_ca: mlflow-ca").mlflow_ca == "mlflow-ca"
