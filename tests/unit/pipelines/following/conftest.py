"""The servers of KFP and Kubernetes, and a shell, for the tests of a followed run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.cluster_command import Shell
from tests.fixtures.kfp_api_server import FakeKfp, kfp_api_server
from tests.fixtures.kubernetes_api_server import FakeKubernetes, kubernetes_api_server

ENVIRONMENT = """\
tag: 1-a
namespace: kubeflow
mlflow_tracking_uri: 'off'
retries: {num_retries: 1}
resources: {gpu: {memory_limit: 6Gi}}
checkpoints: {claim: deepsynth-checkpoints, mount_path: /checkpoints}
"""


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with kfp_api_server() as server:
        yield server


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    found = Shell(tmp_path, monkeypatch, capsys)
    (tmp_path / "environment.yaml").write_text(ENVIRONMENT)
    return found


@pytest.fixture
def kubernetes(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """The server that the kubeconfig names."""
    with kubernetes_api_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(shell.folder / "kubeconfig")))
        yield server
