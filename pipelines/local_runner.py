"""``deepsynth run``: the pipeline on this machine, in KFP's subprocess runner, with its progress shown.

The work is done in ``runs/.<id>.partial-<pid>``, which takes the name ``runs/<id>`` only when everything is there.
"""

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from components.shared.errors import EXIT_CODE_USER_ERROR, UserError
from components.shared.output_folder import finished_folder
from components.shared.progress import PROGRESS_FILE_VARIABLE
from pipelines.config import SharedSettings, parameter_text
from pipelines.process_group import ProcessGroup
from pipelines.run_display import RunDisplay
from pipelines.run_events import EventReader
from pipelines.run_summary import SUMMARY_FILE, build_summary

LOG_FILE = "pipeline.log"
CONFIG_FILE = "config.yaml"
_FOLDERS = {
    "prepare": "dataset",
    "train": "adapter",
    "evaluate": "evaluation",
    "benchmark": "benchmark",
    "export": "package",
}
_SECONDS_BETWEEN_LOOKS = 0.2


class StepFailedError(Exception):
    """A step ended with an error that is not the user's to mend; the log holds its traceback."""


@dataclass
class RunOutcome:
    """A finished run."""

    folder: Path
    summary: dict[str, Any]
    warnings: list[str]
    """what the steps warned of, each once"""


@dataclass
class _Watched:
    """What the events of a run said."""

    seconds: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    running: str = ""
    started: float = 0.0

    def note(self, line: dict[str, Any]) -> None:
        if line.get("event") == "start":
            self.running, self.started = line["step"], line["time"]
        elif line.get("event") == "end":
            self.seconds[line["step"]] = line["time"] - self.started
            if "output_dir" in line:
                self.outputs[line["step"]] = Path(line["output_dir"])
        elif line.get("event") == "warning" and line["message"] not in self.warnings:
            self.warnings.append(line["message"])
        elif line.get("event") == "error":
            self.error = line


def run_pipeline(config: SharedSettings, runs_dir: Path, run_id: str) -> RunOutcome:
    """Run the pipeline and make ``runs_dir/run_id``.

    Raises:
        UserError: the run exists, or a step found something that the user can mend.
        StepFailedError: a step failed otherwise; the log is kept as ``<run_id>.failed.log``.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; all processes of the run have ended and its folder is gone.
    """
    runs_dir = runs_dir.absolute()
    started = time.monotonic()
    with _signals_interrupt(), finished_folder(runs_dir / run_id) as folder:
        config_text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (folder / CONFIG_FILE).write_text(config_text, encoding="utf-8")
        failed_log = runs_dir / f"{run_id}.failed.log"
        failed_log.unlink(missing_ok=True)
        with _kept_log_of_a_failure(folder / LOG_FILE, failed_log):
            watched, memory = _watch(config, folder, run_id, tracking_uri(runs_dir))
        for step, name in _FOLDERS.items():
            shutil.move(watched.outputs[step], folder / name)
        shutil.rmtree(folder / "kfp")
        summary = build_summary(folder, run_id, watched.seconds, memory)
        summary["seconds_total"] = round(time.monotonic() - started, 3)
        (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return RunOutcome(runs_dir / run_id, summary, watched.warnings)


def tracking_uri(runs_dir: Path) -> str:
    """Return the user's MLflow address, or the SQLite file that all runs of the folder share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs_dir.absolute() / 'mlflow.db'}"


def _watch(config: SharedSettings, folder: Path, run_id: str, uri: str) -> tuple[_Watched, dict[str, int]]:
    events = folder / "kfp" / "events.jsonl"
    events.parent.mkdir()
    job = folder / "kfp" / "job.json"
    values = parameter_text(config.model_dump(mode="json", exclude_unset=True))
    job.write_text(json.dumps({"pipeline_root": str(folder / "kfp"), "config": values}), encoding="utf-8")
    environment = os.environ | {
        PROGRESS_FILE_VARIABLE: str(events),
        "MLFLOW_TRACKING_URI": uri,
        "KFP_RUN_ID": run_id,
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "pipelines.local_run", str(job)]
    reader, watched = EventReader(events), _Watched()
    with RunDisplay() as display, ProcessGroup(command, folder / LOG_FILE, environment) as group:
        code = None
        while code is None:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            code = group.exit_code()
            for line in reader.new_lines():
                watched.note(line)
                display.show(line)
    if code != 0:
        raise _failure(watched, code, folder / LOG_FILE)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return watched, {"largest_process": largest, "all_processes": group.peak_memory_bytes}


def _failure(watched: _Watched, exit_code: int, log: Path) -> Exception:
    if watched.error is None:
        step = watched.running or "before the first step"
        last_words = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2].strip()
        return StepFailedError(
            f"{step}: its process ended without an error of its own (exit code {exit_code}; "
            "killed, or out of memory?); "
            f"the log ends with: {last_words[:200]}"
        )
    message = f"{watched.error['step']}: {watched.error['message']}"
    return UserError(message) if watched.error["exit_code"] == EXIT_CODE_USER_ERROR else StepFailedError(message)


@contextmanager
def _kept_log_of_a_failure(log: Path, kept: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, StepFailedError) as error:
        shutil.copyfile(log, kept)
        error.add_note(f"log: {kept}")
        raise


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that the same clean-up follows."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
