"""A child process reads foreign files within limits: what goes beyond them is given up, and the next is read."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.shared.errors import UserError
from components.shared.foreign_files.foreign_reader import ForeignReader, ReaderHere
from components.shared.foreign_files.limits import LimitExceededError, ReadingLimits
from tests.unit.shared.foreign_files.boundless import double, large, large_from_large, pid, read

LIMITS = ReadingLimits(seconds=0.25, memory_bytes=2**27, item_bytes=2**20)


def read_all(reader: ForeignReader, tasks: list[str]) -> dict[str, list[Any]]:
    """Return the items of each task; an error ends them."""
    found: dict[str, list[Any]] = {}
    for task, items in reader.each(read, tasks):
        found[task] = []
        try:
            found[task] += items
        except (LimitExceededError, UserError, RuntimeError) as error:
            found[task].append(error)
    return found


def test_items_come_in_order_as_in_this_process() -> None:
    tasks = [f"task {number}" for number in range(40)]
    with ForeignReader(LIMITS) as reader:
        found = [(task, list(items)) for task, items in reader.each(read, tasks)]
    assert found == [(task, list(items)) for task, items in ReaderHere().each(read, tasks)]
    assert len(found) == 40 and found[3][1] == ["task 3 begins", "task 3 ends"]


@pytest.mark.parametrize(
    ("deed", "limits", "said"),
    [
        ("compute", ["time"], "more than 0.25 seconds"),
        ("compute in C", ["time"], "more than 0.25 seconds"),
        ("allocate", ["memory"], "more than 0.125 GiB of memory"),
        ("allocate in C", ["crash", "memory"], "0.125 GiB of memory"),
        ("crash", ["crash"], "died (SIGSEGV)"),
        ("die", ["crash"], "died (exit code 7)"),
    ],
)
def test_a_task_beyond_the_limits_is_given_up_and_the_others_are_read(deed: str, limits: list[str], said: str) -> None:
    with ForeignReader(LIMITS) as reader:
        found = read_all(reader, ["before", deed, *(f"behind {number}" for number in range(12))])
    first, error = found.pop(deed)
    assert first == f"{deed} begins"
    assert isinstance(error, LimitExceededError) and error.limit in limits and said in str(error)
    assert all(items == [f"{task} begins", f"{task} ends"] for task, items in found.items()) and len(found) == 13


def test_an_item_that_is_too_large_is_not_taken() -> None:
    with ForeignReader(LIMITS) as reader:
        sizes = [100, 2**20 + 1, 200]
        found: list[Any] = []
        for _, items in reader.each(large, sizes):
            try:
                found += [len(item) for item in items]
            except LimitExceededError as error:
                found.append(error.limit)
    assert found == [100, "size", 200]


@pytest.mark.parametrize("task_bytes", [10_000, 200_000])
def test_tasks_larger_than_a_pipe_with_results_larger_than_a_pipe_are_done(task_bytes: int) -> None:
    tasks = [bytes([number]) * task_bytes for number in range(10)]
    with ForeignReader(ReadingLimits(item_bytes=2**21)) as reader:
        watch = threading.Timer(120, reader.stop)  # two processes that wait for each other would do so for ever
        watch.start()
        found = [(task, [item[:1] for item in items]) for task, items in reader.each(large_from_large, tasks)]
        watch.cancel()
    assert found == [(task, [task[:1]] * 3) for task in tasks]


def test_parts_give_more_time() -> None:
    with ForeignReader(ReadingLimits(seconds=1.0, seconds_per_part=10)) as reader:
        assert read_all(reader, ["parts"]) == {"parts": ["parts begins", "parts ends"]}


def test_errors_of_the_function_come_here_and_the_child_stays(capfd: pytest.CaptureFixture[str]) -> None:
    with ForeignReader(LIMITS) as reader:
        child = reader.call(pid)
        found = read_all(reader, ["user error", "unpicklable error", "behind"])
        assert reader.call(pid) == child
    user_error, other = found["user error"][1], found["unpicklable error"][1]
    assert isinstance(user_error, UserError) and str(user_error) == "a.pdf: it is broken; make it again"
    assert user_error.problem == "it is broken" and user_error.where == "a.pdf"
    assert isinstance(other, RuntimeError) and "UnpicklableError: ab" in str(other) and "boundless.py" in str(other)
    assert found["behind"] == ["behind begins", "behind ends"]
    assert capfd.readouterr() == ("", "")


def test_what_libraries_say_goes_to_the_log_and_is_cut(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), ForeignReader(LIMITS) as reader:
        assert read_all(reader, ["talk"]) == {"talk": ["talk begins", "talk ends"]}
    assert capfd.readouterr() == ("", "")
    (record,) = caplog.records
    assert "warning 0 of a library" in record.getMessage()
    assert len(record.getMessage()) < LIMITS.message_bytes + 100


def test_single_calls_give_results_errors_and_limits() -> None:
    with ForeignReader(LIMITS) as reader:
        assert [reader.call(double, number) for number in (1, 2)] == [2, 4]
        with pytest.raises(ValueError, match="negative"):
            reader.call(double, -1)
        with pytest.raises(LimitExceededError, match="died"):
            reader.call(double, 0)
        assert reader.call(double, 3) == 6


def test_the_child_has_this_process_s_variables_folder_and_workplace_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPSYNTH_TEST", "of now")
    with ForeignReader(LIMITS, workplace={"number": 1}) as reader:
        assert reader.call(os.getcwd) == str(tmp_path)
        assert reader.call(os.getenv, "DEEPSYNTH_TEST") == "of now"
        assert read_all(reader, ["workplace"]) == {"workplace": ["workplace begins", {"number": 1}]}


@pytest.mark.parametrize("leave", [lambda reader: reader.close(), lambda reader: read_half(reader)])
def test_a_child_ends_with_its_reader(leave: Callable[[ForeignReader], None]) -> None:
    reader = ForeignReader(LIMITS)
    child = psutil.Process(reader.call(pid))
    leave(reader)
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert reader.call(double, 4) == 8, "a closed reader starts another child"
    reader.close()


def read_half(reader: ForeignReader) -> None:
    for _, items in reader.each(read, ["one", "two", "three"]):
        assert next(items) == "one begins"
        break
