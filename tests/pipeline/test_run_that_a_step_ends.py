"""A local run whose first task refuses it: what is said, what is left, and its spans."""

from pathlib import Path

import pytest

from tests.fixtures.span_receiver import attributes, receiving
from tests.pipeline.deepsynth_run import command, finish

pytestmark = pytest.mark.slow  # the first task takes seconds to start


def test_an_error_that_a_step_finds_is_one_line_and_leaves_only_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
        answer = finish(command({"source": "empty"}), tmp_path)
    assert answer.returncode == 2
    errors = [line for line in answer.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "configure: source empty: no document in it can be read" in errors[0]
    assert "Traceback" not in answer.stderr
    assert f"log: {tmp_path / 'runs' / 'r1.failed.log'}" in answer.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["r1.failed.log"]
    whole, step = receiver.named("deepsynth-finetune"), receiver.named("configure")
    assert step.parent_span_id == whole.span_id and step.trace_id == whole.trace_id
    assert whole.parent_span_id == b"" and attributes(whole)["kfp.run_id"] == "r1"
    assert whole.status.code == step.status.code == 2
    assert "no document in it" in step.status.message
