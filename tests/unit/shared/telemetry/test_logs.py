"""Output of programs on standard error: JSON lines if requested, and progress as lines without a terminal."""

import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

TALKATIVE = """
import logging, sys, threading, warnings
from pipelines.task_side.task_entry import task
from components.shared.tracking.step_run import step_run
with task("train", "part 2"):
    with step_run("train", {}) as tracked:
        logging.getLogger("components.train").info("%d pages", 7, extra={"pages": 7})
        logging.getLogger("httpx").info("one request of many")
        logging.getLogger("httpx").warning("ünicode\\nand a line break")
    own = logging.getLogger("some.library")
    own.addHandler(logging.StreamHandler())
    own.propagate = False
    own.warning("a library with a handler of its own")
    warnings.warn("deprecated", RuntimeWarning)
    logging.getLogger("httpx").warning("a\\u202egnp.exe \\x1b[2J", extra={"names": ["b\\u2066", {"c": "\\x9b"}]})
    print("printed", file=sys.stderr)
    sys.stderr.write("10%|#  |\\r20%|## |\\r")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    {}["missing"]
"""


def said(command: list[str], folder: Path, **variables: str) -> tuple[int, str]:
    """Return exit code and standard error of a program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "KFP", "DEEPSYNTH"))}
    answer = subprocess.run(command, cwd=folder, env=kept | variables, capture_output=True, text=True)
    return answer.returncode, answer.stderr


def prepare(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "components.prepare", "--workers", "1", "--output_dir", "out", *arguments]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[dict[str, Any]], Path]:
    """Return exit code, JSON lines and folder of a task that fails, and in which every source of output prints."""
    folder = tmp_path_factory.mktemp("talk")
    code, lines = said([sys.executable, "-c", TALKATIVE], folder, DEEPSYNTH_LOG="json", KFP_RUN_ID="run-7")
    return code, [json.loads(line) for line in lines.splitlines()], folder


def line_of(talk: tuple[int, list[dict[str, Any]], Path], message: str) -> dict[str, Any]:
    (line,) = [line for line in talk[1] if message in line["message"]]
    return line


def test_every_line_is_an_object_that_says_when_who_and_where(talk: tuple[int, list[dict[str, Any]], Path]) -> None:
    assert len(talk[1]) > 7
    for line in talk[1]:
        time = datetime.datetime.fromisoformat(line["time"])
        assert time.utcoffset() == datetime.timedelta(0)
        assert abs((datetime.datetime.now(datetime.UTC) - time).total_seconds()) < 600
        assert line["level"] in ("INFO", "WARNING", "ERROR", "CRITICAL") and line["logger"] and line["message"]
        assert (line["step"], line["kfp_run_id"]) == ("train", "run-7")
        level = "" if line["level"] == "INFO" else f"{line['level']} "
        assert line["log"].startswith(f"{level}{line['message']}"), "all that KFP shows of an archived log"


def test_records_keep_level_logger_and_extra_fields(talk: tuple[int, list[dict[str, Any]], Path]) -> None:
    ours = line_of(talk, "7 pages")
    assert (ours["level"], ours["logger"], ours["pages"]) == ("INFO", "components.train", 7)
    theirs = line_of(talk, "ünicode\nand a line break")
    assert (theirs["level"], theirs["logger"]) == ("WARNING", "httpx")
    assert not [line for line in talk[1] if "one request of many" in line["message"]]


def test_lines_hold_no_terminal_commands_and_nothing_that_turns_them(
    talk: tuple[int, list[dict[str, Any]], Path],
) -> None:
    line = line_of(talk, "gnp.exe")
    assert line["message"] == r"a\u202egnp.exe \x1b[2J" and line["log"] == f"WARNING {line['message']}"
    assert line["names"] == [r"b\u2066", {"c": r"\x9b"}]


def test_lines_name_the_mlflow_run_while_it_runs(talk: tuple[int, list[dict[str, Any]], Path]) -> None:
    run_id = line_of(talk, "7 pages")["mlflow_run_id"]
    run = MlflowClient(f"sqlite:///{talk[2] / 'mlflow.db'}").get_run(run_id)
    assert run.info.run_name == "run-7 · train"
    assert "mlflow_run_id" not in line_of(talk, "printed")


def test_warnings_prints_and_own_handlers_are_objects_too(talk: tuple[int, list[dict[str, Any]], Path]) -> None:
    assert line_of(talk, "RuntimeWarning: deprecated")["logger"] == "py.warnings"
    for message in ("a library with a handler of its own", "printed"):
        assert line_of(talk, message)["logger"] == "stderr"


def test_of_a_bar_only_what_is_seen_last_becomes_a_line(talk: tuple[int, list[dict[str, Any]], Path]) -> None:
    assert [line["message"] for line in talk[1] if "%|" in line["message"]] == ["20%|## |"]


def test_an_exception_is_one_object_with_its_traceback(talk: tuple[int, list[dict[str, Any]], Path]) -> None:
    assert talk[0] == 1
    last = talk[1][-1]
    assert (last["level"], last["message"]) == ("CRITICAL", "KeyError: 'missing'")
    assert last["exception"].startswith("Traceback (most recent call last):\n")
    assert last["exception"].endswith("KeyError: 'missing'")
    assert last["log"].endswith(last["exception"])
    assert line_of(talk, "ZeroDivisionError")["exception"].endswith("ZeroDivisionError: division by zero")


def test_what_the_user_can_mend_is_an_object_with_its_parts(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    code, text = said(prepare(), tmp_path, DEEPSYNTH_LOG="json", MLFLOW_TRACKING_URI="off")
    assert code == 2
    (line,) = [json.loads(each) for each in text.splitlines()]
    assert (line["level"], line["problem"]) == ("ERROR", "the output folder exists and is not empty")
    assert line["where"] == str(tmp_path / "out") and line["mend"].startswith("remove it")


@pytest.mark.parametrize("command", [prepare(), [str(Path(sys.executable).with_name("deepsynth")), "config"]])
def test_an_unknown_format_is_one_line(command: list[str], tmp_path: Path) -> None:
    code, text = said(command, tmp_path, DEEPSYNTH_LOG="xml", MLFLOW_TRACKING_URI="off")
    assert code == 2
    assert text == "error: DEEPSYNTH_LOG: unknown format 'xml'; set it to text or json\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_long_work_is_followed_in_lines_where_there_is_no_terminal(log_format: str, tmp_path: Path) -> None:
    rows = [{"text": f"Document {number} of the archive.\n" * 30} for number in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"MLFLOW_TRACKING_URI": "off", "DEEPSYNTH_PROGRESS_SECONDS": "0.2", "DEEPSYNTH_LOG": log_format}
    started = time.monotonic()
    code, text = said(prepare("--source", "rows.jsonl", "--max_train_pages", "100"), tmp_path, **settings)
    seconds = time.monotonic() - started
    assert code == 0 and "\x1b" not in text and "\r" not in text and "━" not in text
    lines = [line for line in text.splitlines() if "draw documents" in line]
    assert 3 <= len(lines) <= 2 + seconds / 0.2
    if log_format == "text":
        assert all(line.startswith("INFO components.shared.telemetry.progress: draw documents: ") for line in lines)
        return
    objects = [json.loads(line) for line in lines]
    done = [each["done"] for each in objects]
    assert done == sorted(done) and objects[-1]["finished"] and not objects[0]["finished"]
    assert all(each["total"] == objects[-1]["done"] and each["rate"] > 0 for each in objects)
    peaks = [each["peak_resident_bytes"] for each in objects]
    assert peaks == sorted(peaks) and 2**24 < peaks[0] < 2**36
