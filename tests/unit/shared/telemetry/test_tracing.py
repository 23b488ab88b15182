"""Spans as a receiver gets them: a real OTLP endpoint over HTTP, and real steps run as programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.mlflow_server import free_port
from tests.fixtures.span_receiver import attributes, receiving

TASK = """
import sys, time
from pipelines.task_side.task_entry import task
from components.shared.errors import UserError
from components.shared.telemetry.tracing import span
with task(sys.argv[1]):
    with span("think", pages=3):
        time.sleep(0.01)
    if len(sys.argv) > 2:
        raise UserError("not a picture", where="scans/7.png")
"""


def ran(command: list[str], folder: Path, endpoint: str | None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sends its spans to ``endpoint``."""
    others = ("MLFLOW", "KFP", "OTEL", "DEEPSYNTH", "TRACEPARENT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)} | variables
    environment |= {"MLFLOW_TRACKING_URI": "off"} | ({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if endpoint else {})
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_step_is_a_span_with_its_phases_and_figures(tmp_path: Path) -> None:
    rows = [{"text": f"Document {number}.\n" * 3} for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["-m", "components.prepare", "--source", "rows.jsonl", "--workers", "1", "--output_dir", "out"]
    with receiving() as receiver:
        answer = ran(command, tmp_path, receiver.address, KFP_RUN_ID="run-7")
    assert answer.returncode == 0, answer.stderr
    step = receiver.named("prepare")
    known = attributes(step)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert known["kfp.run_id"] == "run-7" and known["deepsynth.step"] == "prepare"
    assert known["deepsynth.dataset_digest"] == manifest["digest"]
    assert known["deepsynth.train_documents"] + known["deepsynth.eval_documents"] == 6
    assert known["version.python"] and receiver.resources[0]["service.name"] == "deepsynth"
    phases = {span.name: span for span in receiver.spans if span.parent_span_id == step.span_id}
    assert {"select documents", "draw documents", "write train shards", "write the preview"} <= set(phases)
    assert attributes(phases["draw documents"])["done"] == 6
    for span in receiver.spans:
        assert span.trace_id == step.trace_id
        assert step.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= step.end_time_unix_nano


def test_all_steps_of_a_run_are_in_one_trace(tmp_path: Path) -> None:
    with receiving() as receiver:
        for step, run_id in (("prepare", "run-7"), ("train", "run-7"), ("evaluate", "run-8")):
            assert ran(["-c", TASK, step], tmp_path, receiver.address, KFP_RUN_ID=run_id).returncode == 0
    prepare, train, other = (receiver.named(step) for step in ("prepare", "train", "evaluate"))
    assert prepare.trace_id == train.trace_id != other.trace_id
    assert prepare.parent_span_id == train.parent_span_id == b""  # no parent, because nothing would send that span
    assert prepare.span_id != train.span_id


def test_a_given_parent_wins(tmp_path: Path) -> None:
    given = {"TRACEPARENT": f"00-{'ab' * 16}-{'cd' * 8}-01", "KFP_RUN_ID": "run-7"}
    with receiving() as receiver:
        assert ran(["-c", TASK, "train"], tmp_path, receiver.address, **given).returncode == 0
    step, phase = receiver.named("train"), receiver.named("think")
    assert (step.trace_id.hex(), step.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)
    assert (phase.trace_id, phase.parent_span_id) == (step.trace_id, step.span_id)
    assert attributes(phase) == {"pages": 3}


def test_what_failed_is_the_span_s_status_and_event(tmp_path: Path) -> None:
    with receiving() as receiver:
        answer = ran(["-c", TASK, "train", "fail"], tmp_path, receiver.address, DEEPSYNTH_LOG="json")
    assert answer.returncode == 2
    step = receiver.named("train")
    assert step.status.code == 2  # error
    assert step.status.message == "UserError: scans/7.png: not a picture"
    (event,) = step.events
    assert event.name == "exception"
    assert attributes(event)["exception.message"] == "scans/7.png: not a picture"
    assert receiver.named("think").status.code == 0


def test_log_lines_name_the_span(tmp_path: Path) -> None:
    talk = TASK.replace("time.sleep(0.01)", "print('thinking', file=sys.stderr)\n    print('on', file=sys.stderr)")
    with receiving() as receiver:
        answer = ran(["-c", talk, "train"], tmp_path, receiver.address, DEEPSYNTH_LOG="json")
    thinking, going_on = (json.loads(line) for line in answer.stderr.splitlines())
    assert (thinking["trace_id"], thinking["span_id"]) == (
        receiver.named("think").trace_id.hex(),
        receiver.named("think").span_id.hex(),
    )
    assert going_on["span_id"] == receiver.named("train").span_id.hex()


def test_an_endpoint_that_is_down_is_said_once(tmp_path: Path) -> None:
    answer = ran(["-c", TASK, "train"], tmp_path, f"http://127.0.0.1:{free_port()}")
    assert answer.returncode == 0
    (line,) = answer.stderr.splitlines()
    assert line.startswith("WARNING components.shared.telemetry.span_export: spans cannot be sent to http://127.0.0.1:")
    assert "the step goes on" in line and "Connection refused" in line


def test_an_endpoint_that_never_answers_holds_a_step_up_for_seconds(tmp_path: Path) -> None:
    timed = TASK.replace("import sys, time", "import sys, time\nstart = time.monotonic()")
    timed += "print(time.monotonic() - start)\n"
    with receiving(seconds_to_answer=600) as receiver:
        answer = ran(["-c", timed, "train"], tmp_path, receiver.address)
    assert answer.returncode == 0, answer.stderr
    assert 4 < float(answer.stdout) < 300, "it ends before the answer, on a busy machine too"


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {}])
def test_nothing_is_imported_and_sent_where_tracing_is_off(off: dict[str, str], tmp_path: Path) -> None:
    looked = TASK + "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    with receiving() as receiver:
        answer = ran(["-c", looked, "train"], tmp_path, receiver.address if off else None, **off)
    assert (answer.returncode, answer.stdout, receiver.spans) == (0, "[]\n", [])
