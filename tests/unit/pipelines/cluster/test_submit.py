"""`deepsynth submit` and `deepsynth follow` against a server that speaks KFP's REST API."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from components.shared.tracking.pipeline_run import tag_pipeline_run
from components.shared.tracking.step_run import step_run
from tests.fixtures.cluster_command import Shell
from tests.fixtures.kfp_api_server import FakeKfp, kfp_api_server
from tests.fixtures.mlflow_server import free_port
from tests.fixtures.report_fixture import evaluation_report, report_row

DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with kfp_api_server() as server:
        yield server


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


def submit(shell: Shell, kfp: FakeKfp, *options: str):
    return shell("submit", "--host", kfp.url, "--environment", "environment.yaml", "--poll-seconds", "0.05", *options)


def test_a_run_is_started_with_the_checked_configuration(shell: Shell, kfp: FakeKfp) -> None:
    answer = submit(shell, kfp, "--set", "train.learning_rate=1e-4", "--experiment", "letters")
    assert answer.code == 0, answer.err
    (run,) = kfp.runs.values()
    config = json.loads(run["runtime_config"]["parameters"]["config"])
    assert config["train"]["learning_rate"] == 1e-4 and config["source"] == "python-docs"
    assert run["runtime_config"]["parameters"]["skip_if_unchanged"] is False
    assert run["runtime_config"]["parameters"]["run_pages"] == f"{kfp.url}/#/runs/details/"
    assert run["service_account"] == "deepsynth-pipeline"
    assert re.fullmatch(r"\d{8}-\d{6}-quickstart", run["display_name"]), "names sort by time"
    assert [one["display_name"] for one in kfp.experiments.values()] == ["letters"]
    assert f"{kfp.url}/#/runs/details/{run['run_id']}" in answer.out
    assert f"deepsynth follow {run['run_id']} --host {kfp.url} --environment environment.yaml" in answer.out


def test_a_dry_run_says_what_would_run_and_changes_nothing_on_the_server(shell: Shell, kfp: FakeKfp) -> None:
    answer = submit(shell, kfp, "--dry-run", "--skip", "benchmark")
    assert answer.code == 0, answer.err
    lines = dict(line.split(":", 1) for line in answer.out.splitlines())
    assert lines["pipeline"].strip() == "version 1.2.3-abc, to be uploaded"
    assert lines["would run"].strip() == "prepare, train, evaluate, gate, export if the gate promotes"
    assert "1 x nvidia.com/gpu" in lines["GPU tasks"] and "GiB on a GPU" in lines["memory"]
    assert not kfp.runs and not kfp.pipelines and not kfp.experiments

    submit(shell, kfp)
    assert "version 1.2.3-abc, which is there" in submit(shell, kfp, "--dry-run").out
    assert "off: every task runs" in submit(shell, kfp, "--dry-run", "--no-cache").out
    assert len(kfp.runs) == len(kfp.versions) == 1

    refused = submit(shell, kfp, "--dry-run", "--set", "train.lr=1")
    assert refused.code == 2 and "learning_rate" in refused.err and len(kfp.runs) == 1


def test_the_version_is_named_by_the_images_tag_and_used_again(shell: Shell, kfp: FakeKfp) -> None:
    assert "pipeline version 1.2.3-abc: uploaded" in submit(shell, kfp).out
    assert "pipeline version 1.2.3-abc: the one that is there" in submit(shell, kfp).out
    (pipeline,) = kfp.pipelines.values()
    assert pipeline["display_name"] == "deepsynth-finetune"
    # The same tag with different content, e.g. another number of partitions, gives a new version.
    for _ in range(2):
        submit(shell, kfp, "--prepare-partitions", "2")
    names = [version["name"] for version in kfp.versions.values()]
    assert len(names) == 2 and names[0] == "1.2.3-abc" and re.fullmatch(r"1\.2\.3-abc-[0-9a-f]{8}", names[1])
    used = [run["pipeline_version_reference"]["pipeline_version_id"] for run in kfp.runs.values()]
    first, second = kfp.versions
    assert used == [first, first, second, second]
    images = {
        executor["container"]["image"] for executor in kfp.packages[first][0]["deploymentSpec"]["executors"].values()
    }
    assert images == {
        "registry.example/team/deepsynth-pipelines-python:1.2.3-abc",
        "registry.example/team/deepsynth-pipelines-python-cuda:1.2.3-abc",
    }


def test_without_the_cache_every_task_runs(shell: Shell, kfp: FakeKfp) -> None:
    submit(shell, kfp)
    assert submit(shell, kfp, "--no-cache").code == 0
    with_cache, without = ([*_cached(spec)] for spec, _ in kfp.packages.values())
    assert any(with_cache) and without and not any(without)


def _cached(spec: dict[str, Any]) -> Iterator[bool]:
    """Yield for each task of a step whether KFP's cache may supply it."""
    for holder in (spec["root"], *spec["components"].values()):
        for task in holder.get("dag", {}).get("tasks", {}).values():
            if "executorLabel" in spec["components"][task["componentRef"]["name"]]:
                yield bool(task.get("cachingOptions", {}).get("enableCache"))


def test_save_steps_needs_no_folder_where_the_cluster_keeps_checkpoints(shell: Shell, kfp: FakeKfp) -> None:
    refused = submit(shell, kfp, "--set", "train.save_steps=4")
    assert refused.code == 2 and "save_steps needs a checkpoint_dir" in refused.err
    with (shell.folder / "environment.yaml").open("a") as file:
        file.write("\ncheckpoints: {claim: checkpoints, mount_path: /checkpoints}\n")
    answer = submit(shell, kfp, "--set", "train.save_steps=4")
    assert answer.code == 0, answer.err
    (run,) = kfp.runs.values()
    assert json.loads(run["runtime_config"]["parameters"]["config"])["train"]["save_steps"] == 4


def test_waiting_shows_each_steps_states_once_and_ends_well(shell: Shell, kfp: FakeKfp) -> None:
    partitions = {f"draw-pages#{number}": "RUNNING" for number in range(3)}
    kfp.timeline.insert(2, ("RUNNING", {"configure": "SUCCEEDED", **partitions, "draw-pages#1": "SUCCEEDED"}))
    # The task by its title, as in other KFP versions.
    kfp.timeline.insert(4, ("RUNNING", {"Train the adapter": "SUCCEEDED"}))
    answer = submit(shell, kfp, "--wait")
    assert answer.code == 0, answer.err
    said = [line.partition(" ")[2] for line in answer.out.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    (note,) = [line for line in said if line.startswith("note: ")]
    assert "reasons and logs come from MLflow and KFP only" in note
    said.remove(note)
    assert said == [
        "configure: running",
        "configure: succeeded",
        "draw-pages: running (1 of 3 done)",
        "prepare: succeeded",
        "train: running",
        "train: succeeded",
        "close-run: succeeded",
        "the run has ended: succeeded",
    ]
    assert "no table: the environment names no MLflow server" in answer.out


def test_a_failed_run_is_named_with_its_step_and_error(shell: Shell, kfp: FakeKfp) -> None:
    kfp.timeline = [("FAILED", {"root": "FAILED", "prepare": "SUCCEEDED", "train": "FAILED", "close-run": "SUCCEEDED"})]
    kfp.errors = {"train": "train: CUDA out of memory; lower per_device_train_batch_size\n(exit code 2)"}
    answer = submit(shell, kfp, "--wait")
    assert answer.code == 1
    assert "error: train failed: CUDA out of memory; lower per_device_train_batch_size (exit code 2)" in answer.err
    (run,) = kfp.runs
    assert f"its page: {kfp.url}/#/runs/details/{run}" in answer.err
    assert f"its log: deepsynth logs {run} train --host {kfp.url} --environment environment.yaml" in answer.err


def test_a_run_that_was_terminated_is_not_a_success(shell: Shell, kfp: FakeKfp) -> None:
    kfp.timeline = [("CANCELED", {"train": "CANCELED"})]
    answer = submit(shell, kfp, "--wait")
    assert (answer.code, "error: cancelled by someone, while train ran" in answer.err) == (1, True)


def test_a_server_in_trouble_is_asked_again(shell: Shell, kfp: FakeKfp) -> None:
    kfp.troubles = [500, 503, 502]
    answer = submit(shell, kfp, "--wait")
    assert answer.code == 0 and answer.out.count("asking again") == 1 and "is in trouble (500: trouble)" in answer.out


def test_an_expired_token_while_waiting_leaves_the_run_alone(shell: Shell, kfp: FakeKfp) -> None:
    kfp.troubles = [401]
    answer = submit(shell, kfp, "--wait")
    assert answer.code == 2
    assert "wants a login, or the token has expired (401" in answer.err and "set KFP_TOKEN" in answer.err
    (run,) = kfp.runs
    assert f"deepsynth follow {run} --host {kfp.url}" in answer.err
    followed = shell("follow", run, "--host", kfp.url, "--poll-seconds", "0.05")
    assert followed.code == 0 and "the run has ended: succeeded" in followed.out


def test_the_credentials_of_the_environment_are_sent(
    shell: Shell, kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp.token = "secret"
    answer = submit(shell, kfp)
    assert answer.code == 2 and "wants a login" in answer.err and not kfp.runs
    monkeypatch.setenv("KFP_TOKEN", "secret")
    answer = submit(shell, kfp)
    assert answer.code == 0 and len(kfp.runs) == 1 and "secret" not in answer.out + answer.err
    monkeypatch.delenv("KFP_TOKEN")
    (shell.folder / "token").write_text("secret")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(shell.folder / "token"))
    (run,) = kfp.runs
    assert shell("follow", run, "--host", kfp.url, "--poll-seconds", "0.05").code == 0
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH")
    kfp.token, kfp.cookie = None, "authservice_session=abc"
    assert shell("follow", run, "--host", kfp.url).code == 2
    monkeypatch.setenv("KFP_COOKIES", "authservice_session=abc")
    assert shell("follow", run, "--host", kfp.url, "--poll-seconds", "0.05").code == 0


def test_a_multi_user_server_is_told_the_namespace(shell: Shell, kfp: FakeKfp) -> None:
    kfp.multi_user = True
    (shell.folder / "environment.yaml").write_text("tag: 1-a\nnamespace: team-letters\n")
    assert submit(shell, kfp).code == 0
    made = [*kfp.pipelines.values(), *kfp.experiments.values()]
    assert [one["namespace"] for one in made] == ["team-letters"] * 2


class _LoginPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><html>Log in</html>")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_what_is_not_kfp_is_named(shell: Shell) -> None:
    server = HTTPServer(("127.0.0.1", 0), _LoginPage)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        answer = shell(
            "submit", "--host", f"http://127.0.0.1:{server.server_address[1]}", "--environment", "environment.yaml"
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert answer.code == 2
    assert "answers, but not as Kubeflow Pipelines (a web page: a login page?)" in answer.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--host: which KFP server?"),
        (["--host", "kfp.example"], "must begin with http:// or https://"),
        (["--host", "http://127.0.0.1:{closed}"], "cannot be reached"),
        (["--host", "http://127.0.0.1:{closed}", "--set", "train.r=many"], "'train.r'"),
        (["--host", "http://127.0.0.1:{closed}", "--environment", "bad.yaml"], "bad.yaml: unknown key 'gpus'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(shell: Shell, options: list[str], said: str) -> None:
    (shell.folder / "bad.yaml").write_text("gpus: 1\n")
    answer = shell("submit", *[option.replace("{closed}", str(free_port())) for option in options])
    assert answer.code == 2
    (line,) = [line for line in answer.err.splitlines() if "WARNING" not in line]
    assert line.startswith("error: ") and said in line


def test_a_wrong_path_below_the_address_is_named(shell: Shell, kfp: FakeKfp) -> None:
    answer = shell("submit", "--host", f"{kfp.url}/pipeline", "--environment", "environment.yaml")
    assert answer.code == 2 and "knows no such thing (404" in answer.err


def test_a_path_of_this_machine_is_noted_and_a_model_folder_of_the_cluster_allowed(shell: Shell, kfp: FakeKfp) -> None:
    (shell.folder / "letters").mkdir()
    answer = submit(shell, kfp, "--set", "source=letters", "--set", "base_model=/models/ours")
    assert answer.code == 0 and "note: source 'letters' is a path" in answer.err
    assert "note" not in submit(shell, kfp, "--set", "source=hf:owner/letters").err


def test_the_table_is_read_from_mlflow(
    shell: Shell, kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    submit(shell, kfp)
    (run,) = kfp.runs
    monkeypatch.setenv("KFP_RUN_ID", run)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "deepsynth-finetune")
    with step_run("evaluate", {}) as tracked:
        tracked.log_artifact(
            evaluation_report(rows=[report_row("base", 0.6535), report_row("adapter", 0.0353)]).write(tmp_path)
        )
    with step_run("gate", {}) as tracked:
        tracked.set_tags({"gate": "promoted", "gate.reason": "the CER is lower"})
    answer = shell("follow", run, "--host", kfp.url, "--environment", "environment.yaml", "--poll-seconds", "0.05")
    assert answer.code == 0, answer.err
    (line,) = [line for line in answer.out.splitlines() if " adapter " in line]
    assert "3.53%" in line and "promoted:     the CER is lower" in answer.out


def test_a_report_of_another_version_is_said(
    shell: Shell, kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    submit(shell, kfp)
    (run,) = kfp.runs
    monkeypatch.setenv("KFP_RUN_ID", run)
    (tmp_path / "report.json").write_text(json.dumps({"schema_version": 1, "rows": []}))
    with step_run("evaluate", {}) as tracked:
        tracked.log_artifact(tmp_path / "report.json")
    answer = shell("follow", run, "--host", kfp.url, "--poll-seconds", "0.05")
    assert answer.code == 0 and "no table: " in answer.out and "has the schema version 1" in answer.out


def test_an_mlflow_out_of_reach_is_said_with_the_way_there(
    shell: Shell, kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (shell.folder / "environment.yaml").write_text("tag: 1-a\nmlflow_tracking_uri: http://127.0.0.1:9\n")
    answer = submit(shell, kfp, "--wait")
    assert answer.code == 0
    assert "no table: MLflow at http://127.0.0.1:9 does not answer here" in answer.out
    assert "kubectl port-forward" in answer.out


def test_a_run_that_trained_nothing_says_so(
    shell: Shell, kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    submit(shell, kfp, "--skip-if-unchanged")
    ((run_id, run),) = kfp.runs.items()
    assert run["runtime_config"]["parameters"]["skip_if_unchanged"] is True
    monkeypatch.setenv("KFP_RUN_ID", run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "deepsynth-finetune")
    tag_pipeline_run(
        {"deepsynth.decision": "unchanged", "deepsynth.decision.reason": "Nothing is trained: x knows it."}
    )
    kfp.timeline = [("SUCCEEDED", {"configure": "SUCCEEDED", "condition-2": "SKIPPED"})]
    answer = shell("follow", run_id, "--host", kfp.url, "--poll-seconds", "0.05")
    assert "Nothing is trained: x knows it." in answer.out


def test_where_kfps_mlflow_plugin_tracks_the_run_it_is_told_the_experiment_and_the_table_is_found(
    shell: Shell, kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(shell, kfp)
    (shell.folder / "environment.yaml").write_text("tag: 1-a\nmlflow_experiment: letters\n")
    submit(shell, kfp)
    without, with_plugin = kfp.runs.values()
    assert "plugins_input" not in without
    assert with_plugin["plugins_input"] == {"mlflow": {"experiment_name": "letters"}}

    # As in a task's pod: the step attaches to the plugin's run, in the plugin's experiment.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    attached = client.create_run(client.create_experiment("letters")).info.run_id
    monkeypatch.setenv("KFP_RUN_ID", with_plugin["run_id"])
    monkeypatch.setenv("MLFLOW_RUN_ID", attached)
    with step_run("evaluate", {}) as tracked:
        tracked.log_artifact(evaluation_report(rows=[report_row("adapter", 0.25)]).write(tmp_path))
    answer = shell("follow", with_plugin["run_id"], "--host", kfp.url, "--poll-seconds", "0.05")
    assert answer.code == 0 and "25.00%" in answer.out


def test_ctrl_c_while_waiting_leaves_the_run_going(tmp_path: Path, kfp: FakeKfp) -> None:
    kfp.timeline = [("RUNNING", {"configure": "RUNNING"})]
    (tmp_path / "environment.yaml").write_text("tag: 1-a\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "KFP"))}
    command = [
        DEEPSYNTH,
        "submit",
        "--host",
        kfp.url,
        "--environment",
        "environment.yaml",
        "--wait",
        "--poll-seconds",
        "1",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while not kfp.looks:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    (run,) = kfp.runs
    assert process.returncode == 130 and "Traceback" not in err
    assert f"the run goes on; follow it with: deepsynth follow {run} --host {kfp.url}" in err
