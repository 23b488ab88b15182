"""`deepsynth logs`: a step's own lines, from Kubernetes or from KFP."""

import json
import os
import subprocess
import sys

import pytest

from pipelines.following.step_log import last_error
from tests.fixtures.cluster_command import Answer, Shell
from tests.fixtures.kfp_api_server import FakeKfp
from tests.fixtures.kubernetes_api_server import FakeKubernetes
from tests.fixtures.recorded_cluster import replay

POD = "deepsynth-finetune-vzg4n-retry-system-container-impl-3192748504"


def logs(shell: Shell, kfp: FakeKfp, *arguments: str) -> Answer:
    return shell("logs", *arguments, "--host", kfp.url, "--environment", "environment.yaml", "--poll-seconds", "0.05")


FAILING_STEP = """
import logging, sys
from components.shared.errors import UserError
from components.shared.telemetry.logs import configure_logs, exit_code_of
configure_logs("train")
logging.getLogger("components.train").info("step 3 of 75")
sys.exit(exit_code_of(UserError("no room", where="checkpoint_dir", mend="make some")))
"""


def archived(log: str) -> str:
    """Return what KFP 2.17 shows of an archived log: CopyLogFromArchive in backend/src/apiserver/archive/log.go."""
    shown = []
    for line in filter(None, log.splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            shown.append(line)
        else:
            shown.append(entry.get("log", ""))
    return "".join(f"{line}\n" for line in shown)


def json_line(level: str, message: str) -> str:
    return json.dumps({"time": "2026-11-29T01:11:20+00:00", "level": level, "logger": "components", "message": message})


def test_the_failed_steps_own_lines_are_shown_and_the_launchers_are_not(shell: Shell, kfp: FakeKfp) -> None:
    run = replay("train-out-of-memory", kfp, None)
    answer = logs(shell, kfp, run)
    assert answer.code == 0, answer.err
    assert answer.out == "Killed\n", "the record's log has 64 lines of KFP's launcher and executor, and this one"


def test_kubernetes_has_the_json_lines_and_they_are_shown_as_text(
    shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replay("train-out-of-memory", kfp, kubernetes)
    launcher = kfp.logs[POD].replace("Killed", json_line("INFO", "step 3 of 75") + "\n" + json_line("ERROR", "no room"))
    kubernetes.logs = {POD: launcher}
    assert logs(shell, kfp, run, "train").out == "step 3 of 75\nERROR no room\n"
    followed = shell("follow", run, "--host", kfp.url, "--environment", "environment.yaml", "--poll-seconds", "0.05")
    assert "the last lines of train's log:\n  step 3 of 75\n  ERROR no room\n" in followed.err


def test_of_an_archived_log_the_json_lines_are_shown_too(shell: Shell, kfp: FakeKfp) -> None:
    environment = os.environ | {"DEEPSYNTH_LOG": "json"}
    step = subprocess.run([sys.executable, "-c", FAILING_STEP], env=environment, capture_output=True, text=True)
    assert step.returncode == 2 and all(line.startswith("{") for line in step.stderr.splitlines())
    run = replay("train-out-of-memory", kfp, None)
    kfp.logs[POD] = archived(kfp.logs[POD].replace("Killed", step.stderr))
    error = "checkpoint_dir: no room; make some"
    assert logs(shell, kfp, run).out == f"step 3 of 75\nERROR {error}\n"
    assert last_error(kfp.logs[POD].splitlines()) == error


def test_following_ends_with_the_step(
    shell: Shell, kfp: FakeKfp, kubernetes: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replay("train-out-of-memory", kfp, kubernetes)
    kubernetes.logs = {POD: json_line("INFO", "step 3 of 75") + "\n"}
    running = json.loads(json.dumps(kfp.recorded[run][0]))
    for task in running["run_details"]["task_details"]:
        if task.get("display_name") == "train":
            task["state"] = "RUNNING"
    kfp.recorded[run] = [running, running, running, running, *kfp.recorded[run]]
    train = next(pod for pod in kubernetes.pods if pod["metadata"]["name"] == POD)
    train["status"]["phase"] = "Running"
    answer = logs(shell, kfp, run, "train", "--follow")
    assert answer.code == 0 and answer.out == "step 3 of 75\n"


@pytest.mark.parametrize(
    ("record", "step", "said"),
    [
        ("train-out-of-memory", "fit", "error: fit: no such step; the steps are configure, prepare"),
        ("train-out-of-memory", "gate", "error: gate: has not started in this run; the steps that have: configure,"),
        ("train-out-of-memory", "prepare", "error: prepare: KFP's cache answered it: it did not run"),
        ("train-out-of-memory", "configure", "error: configure: no log is left, neither in Kubernetes nor in KFP"),
        ("bucket-missing", None, "no step of this run has started; see why with: deepsynth follow"),
    ],
)
def test_what_has_no_log_is_one_line(record: str, step: str | None, said: str, shell: Shell, kfp: FakeKfp) -> None:
    answer = logs(shell, kfp, replay(record, kfp, None), *([step] if step else []))
    assert answer.code == 2 and said in answer.err
