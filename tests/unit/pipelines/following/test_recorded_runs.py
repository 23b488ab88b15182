"""`deepsynth follow` names the reason in each situation of a real cluster, replayed from its recorded answers."""

import json
import re
from pathlib import Path

import pytest

from components.shared.errors import UserError
from components.shared.tracking.step_run import step_run
from tests.fixtures.cluster_command import Answer, Shell
from tests.fixtures.kfp_api_server import FakeKfp
from tests.fixtures.kubernetes_api_server import FakeKubernetes
from tests.fixtures.recorded_cluster import RECORDS, replay

NODES = "0/1 nodes are available: "
# The expected report of each situation: lines of standard output while the run is followed, and the one error.
SAID: dict[str, tuple[list[str], str]] = {
    "succeeded-in-partitions": (["draw-pages: succeeded (3 of 3 done)", "the run has ended: succeeded"], ""),
    "answered-by-the-cache": (
        ["train: cached", "draw-pages: cached", "evaluate: cached", "gate: succeeded", "the run has ended: succeeded"],
        "",
    ),
    "pod-deleted-and-retried": (
        [
            "prepare: cached",
            "train: attempt 2 of 2; attempt 1 failed: its pod was deleted or evicted, or its node was lost",
            "the run has ended: succeeded",
        ],
        "",
    ),
    "train-permission-denied": (
        ["train: failed", "the run has ended: failed"],
        "error: train failed (attempt 1 of 2): checkpoint_dir /checkpoints/b212caa7-a1f8-4d3e-abfd-2a565a0bc287/"
        "training-f9c98d52c16a3311: cannot be written (Permission denied); the volume must be writable for the steps'"
        " user and group: set security_context.run_as_user and run_as_group in the environment (10001), and apply the"
        " overlay's Job deepsynth-volume-permissions again",
    ),
    "train-out-of-memory": (
        ["train: failed"],
        "error: train failed (attempt 1 of 2): out of memory at 1Gi: raise resources.gpu.memory_limit",
    ),
    "terminated-while-training": (
        ["train: cancelled", "the run has ended: cancelled"],
        "error: cancelled by someone at 01:29:15 UTC, while train ran; go on with: deepsynth retry 7cfb0570",
    ),
    "champion-download-hung-then-terminated": (
        ["the run has ended: cancelled"],
        "error: cancelled by someone at 01:13:36 UTC, while evaluate ran; go on with: deepsynth retry",
    ),
    "cached-artifacts-gone": (
        ["evaluate: cached", "gate: failed"],
        "error: gate failed (attempt 1 of 2): /minio/mlpipeline/v2/artifacts/deepsynth-finetune/780d27a6-f764-4e03-"
        "9593-89a28a88f361/evaluate/c3ba63f8-1892-4a35-b051-2300c44fa4de/evaluation/report.json: not an evaluation's"
        " report (FileNotFoundError",
    ),
    "bucket-missing": (
        ["the run has ended: failed"],
        "error: the run failed before its first step: KFP's root-driver failed in all 9 attempts, and its log is gone;"
        " check that the pipeline root's bucket exists and takes KFP's key (ConfigMap kfp-launcher,"
        " defaultPipelineRoot, in namespace kubeflow)",
    ),
    "service-account-missing": (
        ["the run has ended: failed"],
        'error: the run failed before its first step: serviceaccount "no-such-account" not found in namespace kubeflow;'
        " create it with the overlay (kubectl apply -k build/manifests/NAME), or correct service_account and namespace"
        " in the environment",
    ),
    "image-missing": (
        [
            "configure: attempt 1 waits: image deepsynth-pipelines-python:nope is not on the node, and"
            " image_pull_policy is Never; load it into the nodes with the same tag (kind load docker-image), or correct"
            " tag in the environment",
            "the run has ended: cancelled",
        ],
        "error: cancelled by someone at 01:40:00 UTC, while configure ran; go on with: deepsynth retry",
    ),
    "no-room-for-the-pod": (
        [
            f"configure: attempt 1 waits: no node takes its pod: {NODES}1 Insufficient cpu. no new claims to"
            " deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.; wait, add"
            " nodes, or lower resources.control.cpu_request (it is 64) in the environment"
        ],
        "error: cancelled by someone at 01:40:00 UTC, while configure ran; go on with: deepsynth retry",
    ),
    "claim-missing": (
        [
            f'prepare: attempt 1 of 2 waits: no node takes its pod: {NODES}persistentvolumeclaim "no-such-claim" not'
            " found. not found; create the claim no-such-claim in namespace kubeflow, or correct checkpoints, cache or"
            " volumes in the environment"
        ],
        "error: cancelled by someone at 01:40:00 UTC, while prepare ran; go on with: deepsynth retry",
    ),
}


def follow(shell: Shell, kfp: FakeKfp, run: str) -> Answer:
    return shell("follow", run, "--host", kfp.url, "--environment", "environment.yaml", "--poll-seconds", "0.05")


def said(answer: Answer) -> list[str]:
    """Return the lines printed while following, without the times."""
    return [line.partition(" ")[2] for line in answer.out.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]


def test_each_record_has_an_expectation() -> None:
    assert sorted(SAID) == RECORDS and len(RECORDS) == 13


@pytest.mark.parametrize("name", RECORDS)
def test_each_situation_is_named_in_one_line(
    name: str, shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = follow(shell, kfp, replay(name, kfp, kubernetes))
    lines, error = SAID[name]
    assert [line for line in lines if line not in said(answer)] == [], answer.out
    errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert [line[: len(error)] for line in errors] == ([error] if error else []), answer.err
    assert answer.code == (1 if error else 0)
    assert "note:" not in answer.out, "every source can be reached"


def test_gone_files_of_the_cache_have_a_mend(
    shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = follow(shell, kfp, replay("cached-artifacts-gone", kfp, kubernetes))
    assert "KFP's cache names files that are gone from its object store: run again without the cache" in answer.err


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "train-out-of-memory",
            "train failed: killed (SIGKILL), most probably out of memory at 6Gi: raise resources.gpu.memory_limit",
        ),
        ("terminated-while-training", "cancelled by someone at 01:29:15 UTC, while train ran"),
        (
            "service-account-missing",
            "Kubernetes refused the pod of KFP's root-driver in all 9 attempts; check that the",
        ),
        ("bucket-missing", "KFP's root-driver failed in all 9 attempts, and its log is gone; check that the pipeline"),
        ("train-permission-denied", "train failed: its pod is gone, and neither MLflow nor KFP has an error text"),
    ],
)
def test_without_kubernetes_kfp_still_tells_what_it_knows(name: str, error: str, shell: Shell, kfp: FakeKfp) -> None:
    answer = follow(shell, kfp, replay(name, kfp, None))
    assert answer.code == 1 and error in answer.err
    assert answer.out.count("note: Kubernetes: no credentials") <= 1


def with_logged_memory(kfp: FakeKfp) -> None:
    """Let the failed pods' logs hold two lines of progress with peaks of memory."""
    lines = [
        json.dumps({"message": f"train: {done} of 24", "done": done, "peak_resident_bytes": resident, **container})
        for done, resident, container in (
            (3, 2**29, {}),
            (8, 858993459, {"peak_container_bytes": 1041529569}),
        )
    ]
    kfp.logs = {pod: "\n".join([*lines, log]) for pod, log in kfp.logs.items()}


LOGGED = "(the step had logged a peak of 0.97 GiB in its container with cached files, 0.80 GiB in its process)"


def test_out_of_memory_says_what_the_step_had_logged(shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes) -> None:
    run = replay("train-out-of-memory", kfp, kubernetes)
    with_logged_memory(kfp)
    said_of = follow(shell, kfp, run).err
    assert f"(attempt 1 of 2): out of memory at 1Gi: raise resources.gpu.memory_limit {LOGGED}" in said_of


def test_without_kubernetes_it_says_so_too(shell: Shell, kfp: FakeKfp) -> None:
    run = replay("train-out-of-memory", kfp, None)
    with_logged_memory(kfp)
    assert (
        f"most probably out of memory at 6Gi: raise resources.gpu.memory_limit {LOGGED}" in follow(shell, kfp, run).err
    )


def test_a_pod_that_does_not_start_is_noticed_without_kubernetes(shell: Shell, kfp: FakeKfp) -> None:
    answer = follow(shell, kfp, replay("image-missing", kfp, None))
    assert "configure: waits: its pod has not started; KFP does not say why" in answer.out
    assert answer.out.count("note: Kubernetes: no credentials") == 1


def test_mlflow_tells_what_neither_pods_nor_kfp_know(
    shell: Shell, kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replay("train-permission-denied", kfp, None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("KFP_RUN_ID", run)
    with pytest.raises(UserError), step_run("train", {}):
        raise UserError("the disk is full", where="output_dir", mend="make room")
    monkeypatch.delenv("KFP_RUN_ID")
    answer = follow(shell, kfp, run)
    assert "error: train failed: output_dir: the disk is full; make room" in answer.err


def test_argo_tells_of_a_pod_that_kubernetes_refuses(
    shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replay("claim-missing", kfp, kubernetes)
    kubernetes.pods = [pod for pod in kubernetes.pods if pod["status"]["phase"] == "Succeeded"]
    name = "deepsynth-finetune-qqq4r(0).root(0).exit-handler-1(0).condition-2(0).prepare(0).executor(0)"
    message = 'pods "x" is forbidden: exceeded quota: deepsynth-runs, requested: requests.cpu=2'
    kubernetes.workflows = [{"status": {"nodes": {"1": {"name": name, "phase": "Pending", "message": message}}}}]
    answer = follow(shell, kfp, run)
    assert f"prepare: waits: its pod is not created: {message}; wait for other pods to end, or raise" in answer.out


def test_what_the_account_may_not_read_is_said_once(
    shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes.denied = {"pods"}
    answer = follow(shell, kfp, replay("image-missing", kfp, kubernetes))
    assert answer.out.count('pods is forbidden: User "me" cannot list resource "pods"') == 1
    assert "configure: waits: its pod has not started" in answer.out
