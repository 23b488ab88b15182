"""A step's own lines in its container's log, without those of KFP's launcher and executor.

The log begins with lines of the launcher (``I1129 01:11:16.229505 ...``) and of the executor, which prints the task's
input as indented JSON; the launcher logs again after the step. Steps log JSON objects (``DEEPSYNTH_LOG=json``) or text.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from components.shared.telemetry.json_logs import readable

# glog's header: severity, month and day, time, thread, file and line.
_LAUNCHER = re.compile(r"[IWEF]\d{4} \d{2}:\d{2}:\d{2}\.\d+\s+\d+ \S+:\d+\] ")
_EXECUTOR = re.compile(r"\[KFP Executor [^\]]+\]: ")
_INPUT_FOLLOWS = "Got executor_input:"
# Fields of components.shared.telemetry.progress.
_PEAKS = {
    "peak_container_bytes": "in its container with cached files",
    "peak_resident_bytes": "in its process",
    "peak_gpu_bytes": "of GPU memory",
}
# MLflow's client prints these at the end of each run.
_MLFLOW_LINKS = re.compile(r"(?:🏃 View run|🧪 View experiment) ")
# A JSON line of which KFP's archive shows the field "log".
_ARCHIVED_ERROR = re.compile(r"(?:ERROR|CRITICAL) ")


def own_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield the step's lines of a container's log, JSON lines as text."""
    in_input = False
    for line in lines:
        text = line.rstrip("\r\n")
        if in_input:
            in_input = text != "}"
            continue
        if _EXECUTOR.match(text):
            in_input = text.endswith(_INPUT_FOLLOWS)
            continue
        if not text.strip() or _LAUNCHER.match(text) or _MLFLOW_LINKS.match(text):
            continue
        yield as_text(text)


def as_text(line: str) -> str:
    """Return a JSON log line as ``LEVEL message``, with its traceback below it; other lines as they are."""
    record = json_record(line)
    return line if record is None else readable(record)


def json_record(line: str) -> dict[str, Any] | None:
    """Return a line of ``components.shared.telemetry.json_logs``; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "message" in record else None


def last_error(lines: Iterable[str]) -> str:
    """Return the last error that a step logged; empty if it logged none.

    >>> last_error(['{"level": "ERROR", "message": "train: no room"}', "bye"])
    'train: no room'
    """
    found = ""
    for line in lines:
        record = json_record(line)
        if record and record.get("level") in ("ERROR", "CRITICAL"):
            found = str(record["message"])
        elif line.startswith("error: "):
            found = line.removeprefix("error: ").rstrip()
        elif _ARCHIVED_ERROR.match(line):
            found = line.partition(" ")[2]
    return " ".join(found.split())


def logged_memory(lines: Iterable[str]) -> str:
    """Return the peaks of memory that a step logged last, beside its progress; empty if it logged none.

    >>> logged_memory(['{"message": "train: 8 of 24", "peak_resident_bytes": 966367642}', "bye"])
    'the step had logged a peak of 0.90 GiB in its process'
    """
    found: dict[str, Any] = {}
    for record in filter(None, map(json_record, lines)):
        found = {name: record[name] for name in _PEAKS if isinstance(record.get(name), int)} or found
    peaks = ", ".join(f"{found[name] / 2**30:.2f} GiB {place}" for name, place in _PEAKS.items() if name in found)
    return f"the step had logged a peak of {peaks}" if peaks else ""


def killed_by_the_kernel(lines: Iterable[str]) -> bool:
    """Return whether KFP's launcher saw its step end by SIGKILL, as the kernel does when memory runs out."""
    return any(_LAUNCHER.match(line) and "exit status 137" in line for line in lines)
