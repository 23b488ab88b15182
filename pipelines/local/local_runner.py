"""``deepsynth run``: run the pipeline on this machine in KFP's subprocess or Docker runner, and show its progress.

A run works in ``runs/.<id>.partial-<pid>-<host>``. The folder is renamed to ``runs/<id>`` when it is complete, or to
``runs/<id>.failed`` if a step failed, or the run was interrupted, after others had finished.
"""

import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.shared.artifacts.output_folder import finished_folder
from components.shared.artifacts.run_summary import RunSummary
from components.shared.errors import EXIT_CODE_USER_ERROR, StepFailedError, UserError
from components.shared.telemetry.progress import PROGRESS_FILE_VARIABLE
from pipelines.local.docker_run import DockerRun, configuration
from pipelines.local.process_group import ProcessGroup, signals_interrupt
from pipelines.local.resumed_run import FailedRun, checkpoints_root
from pipelines.local.run_display import RunDisplay
from pipelines.local.run_summary import build_summary
from pipelines.local.runs_folder import CONFIG_FILE, FAILED, FOLDERS, LOG_FILE, tracking_uri
from pipelines.settings.parameter_text import parameter_text
from pipelines.settings.pipeline_config import SharedSettings
from pipelines.task_side.persistent_folders import CHECKPOINTS_VARIABLE, KEPT_OUTPUTS_VARIABLE
from pipelines.task_side.run_events import EventReader, task_title
from pipelines.task_side.run_identity import RUN_NAME_VARIABLE, RUN_PAGE_VARIABLE

JOB_FILE = "job.json"
_KFP_FOLDER = "kfp"
_KEPT_FOLDER = "kept"
_SECONDS_BETWEEN_LOOKS = 0.2
# KFP's local runner continues with other tasks after one in a loop failed.
_SECONDS_TO_END_AFTER_A_FAILURE = 5.0


@dataclass
class RunOutcome:
    """A finished run."""

    folder: Path
    summary: RunSummary
    warnings: list[str]
    """the steps' warnings, each once"""


@dataclass
class _Watched:
    """What the run's events reported."""

    seconds: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    """of the first failed task"""
    last_task: str = "before the first step"
    died: bool = False
    """the last task ended without an end or error event"""
    killed: str = ""
    """the reason, if its container gave one"""
    largest_process: int = 0
    """bytes; over the tasks that reported it"""
    running: bool = False
    _started: float = 0.0

    def note(self, line: dict[str, Any]) -> None:
        """Record one line of the event file; tasks run one at a time."""
        event = line.get("event")
        if self.failed():
            return
        if event == "start" and self.running:
            self.died = True
        elif event == "start":
            self.last_task, self.running, self._started = task_title(line), True, line["time"]
        elif event == "killed":
            self._note_killed(line)
        elif event == "end":
            self.running = False
            self.largest_process = max(self.largest_process, line.get("largest_process", 0))
            self.seconds[line["step"]] = self.seconds.get(line["step"], 0.0) + line["time"] - self._started
            if "output_dir" in line:
                self.outputs[line["step"]] = Path(line["output_dir"])
        elif event == "warning" and line["message"] not in self.warnings:
            self.warnings.append(line["message"])
        elif event == "error":
            self.error = line

    def _note_killed(self, line: dict[str, Any]) -> None:
        if line["again"]:
            self.running = False
            self.warnings.append(f"{self.last_task}: its container was killed ({line['reason']}) and started again")
        else:
            self.died, self.killed = True, f"killed, {line['reason']}, each time it was started; "

    def failed(self) -> bool:
        """Return whether a task reported an error or died."""
        return self.died or self.error is not None


def run_pipeline(
    config: SharedSettings,
    runs_dir: Path,
    run_id: str,
    prepare_partitions: int = 1,
    docker: DockerRun | None = None,
    resumed: FailedRun | None = None,
) -> RunOutcome:
    """Run the pipeline and create ``runs_dir/run_id``; ``prepare_partitions`` tasks draw its pages.

    With ``docker`` each task is a container, otherwise a process. With ``resumed`` the outputs of that run's finished
    steps are reused, and its training resumes from its last checkpoint.

    If a step fails or the run is interrupted, ``<run_id>.failed`` keeps the outputs of finished steps and
    ``<run_id>.failed.log`` the log.

    Raises:
        UserError: the run exists, or a step found an error that the user can fix.
        StepFailedError: a step failed otherwise.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the run's processes have ended.
    """
    runs_dir = runs_dir.absolute()
    started = time.monotonic()
    with signals_interrupt(), finished_folder(runs_dir / run_id) as folder:
        config_text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (folder / CONFIG_FILE).write_text(config_text, encoding="utf-8")
        failed = runs_dir / f"{run_id}{FAILED}"
        _failed_log(failed).unlink(missing_ok=True)
        variables = {
            PROGRESS_FILE_VARIABLE: str(folder / _KFP_FOLDER / "events.jsonl"),
            "MLFLOW_TRACKING_URI": tracking_uri(runs_dir),
            "KFP_RUN_ID": run_id,
            RUN_NAME_VARIABLE: run_id,
            RUN_PAGE_VARIABLE: (runs_dir / run_id).as_uri(),
            CHECKPOINTS_VARIABLE: os.environ.get(CHECKPOINTS_VARIABLE)
            or str(checkpoints_root(runs_dir, run_id, resumed is not None)),
            KEPT_OUTPUTS_VARIABLE: str(folder / _KFP_FOLDER / _KEPT_FOLDER),
        }
        _write_job(config, folder / _KFP_FOLDER, prepare_partitions, variables, docker)
        if resumed:
            resumed.link_outputs(folder / _KFP_FOLDER / _KEPT_FOLDER)
        watched = _Watched()
        with _kept_after_a_failure(folder, watched, failed):
            memory = _watch(watched, folder, variables, _tasks(config, prepare_partitions), docker)
            _gather_outputs(folder, watched)
            summary = build_summary(folder, run_id, watched.seconds, time.monotonic() - started, memory)
            summary.write(folder)
    if resumed:
        shutil.rmtree(resumed.folder)
    return RunOutcome(runs_dir / run_id, summary, watched.warnings)


def _tasks(config: SharedSettings, prepare_partitions: int) -> int:
    """Return the number of tasks: configure and six steps; prepare may be split into select, draw ... and assemble.

    The last task, export, does not run if the gate does not promote the adapter.
    """
    preparing = 1 if prepare_partitions == 1 else prepare_partitions + 2
    return 6 + preparing - len(config.skip)


def _write_job(
    config: SharedSettings, root: Path, prepare_partitions: int, variables: dict[str, str], docker: DockerRun | None
) -> None:
    """Create ``root``, KFP's pipeline root, with the job file for the process that runs KFP."""
    root.mkdir()
    values = config.model_dump(mode="json", exclude_unset=True)
    job: dict[str, Any] = {"pipeline_root": str(root), "prepare_partitions": prepare_partitions}
    if docker:
        values = configuration(values)
        job["docker"] = docker.job(values, root, variables)
    path = root / JOB_FILE
    path.touch(mode=0o600)  # the containers' variables may hold tokens
    path.write_text(json.dumps(job | {"config": parameter_text(values)}), encoding="utf-8")


def _watch(
    watched: _Watched, folder: Path, variables: dict[str, str], tasks: int, docker: DockerRun | None
) -> dict[str, int]:
    """Run the job in its own process, record and show its events, and return its peak memory in bytes."""
    environment = os.environ | variables | {"PYTHONUNBUFFERED": "1"} | (docker.variables() if docker else {})
    group = ProcessGroup(
        [sys.executable, "-m", "pipelines.local.local_run", str(folder / _KFP_FOLDER / JOB_FILE)],
        folder / LOG_FILE,
        environment,
    )
    reader = EventReader(Path(variables[PROGRESS_FILE_VARIABLE]))
    try:
        with RunDisplay(tasks) as display, _ended_containers(docker), group:
            code, give_up_at = None, math.inf
            while code is None and time.monotonic() < give_up_at:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                code = group.exit_code(docker.containers.memory_bytes() if docker else 0)
                for line in reader.new_lines():
                    watched.note(line)
                    display.show(line)
                if watched.failed():
                    give_up_at = min(give_up_at, time.monotonic() + _SECONDS_TO_END_AFTER_A_FAILURE)
    finally:  # a step that ended since the last look has outputs to keep
        for line in reader.new_lines():
            watched.note(line)
    if code != 0 or watched.running or watched.failed():
        raise _failure(watched, code, folder / LOG_FILE)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        "largest_process": max(largest, watched.largest_process),
        "all_processes": group.peak_memory_bytes,
    }


@contextmanager
def _ended_containers(docker: DockerRun | None) -> Iterator[None]:
    """End the run's containers after the process that starts them has ended, for whatever reason."""
    try:
        yield
    finally:
        if docker and docker.containers.any_left():
            docker.containers.end()


def _failure(watched: _Watched, exit_code: int | None, log: Path) -> Exception:
    if watched.error is None:
        last_words = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2].strip()
        known = "" if exit_code is None else f"exit code {exit_code}; "
        return StepFailedError(
            f"{watched.last_task}: its process ended without an error of its own "
            f"({watched.killed or known + 'killed, or out of memory?'}); "
            f"the log ends with: {last_words[:200]}"
        )
    message = f"{task_title(watched.error)}: {watched.error['message']}"
    return UserError(message) if watched.error["exit_code"] == EXIT_CODE_USER_ERROR else StepFailedError(message)


def _gather_outputs(folder: Path, watched: _Watched) -> None:
    """Move finished steps' outputs to their names in ``folder`` unless that is done, and remove KFP's other files."""
    _move_outputs(folder, watched)
    if (folder / _KFP_FOLDER).exists():
        shutil.rmtree(folder / _KFP_FOLDER)


def _move_outputs(folder: Path, watched: _Watched) -> None:
    for step, output in watched.outputs.items():
        if output.exists():
            shutil.move(output, folder / FOLDERS[step])


@contextmanager
def _kept_after_a_failure(folder: Path, watched: _Watched, failed: Path) -> Iterator[None]:
    """After any error or an interrupt keep the log and, if any step finished, rename ``folder`` to ``failed``."""
    try:
        yield
    except BaseException as error:
        # Reused outputs that the resumed run did not reach are kept for the next attempt.
        for kept in (folder / _KFP_FOLDER / _KEPT_FOLDER).glob("*/"):
            watched.outputs.setdefault(kept.name, kept)
        # Rename the outputs first: they cost hours, and renaming works on a full disk; copying the log may fail there.
        if watched.outputs:
            _move_outputs(folder, watched)
            (folder / RunSummary.FILE).unlink(missing_ok=True)  # only finished runs have one
            if failed.exists():
                shutil.rmtree(failed)
            folder = folder.rename(failed)
            shutil.rmtree(folder / _KFP_FOLDER, ignore_errors=True)  # what stays of it is no output
            error.add_note(f"outputs of the finished steps: {failed}")
            error.add_note(f"go on with: deepsynth run --resume {failed.name.removesuffix(FAILED)}")
        if watched.outputs or not isinstance(error, KeyboardInterrupt):
            error.add_note(_keep_log(folder / LOG_FILE, _failed_log(failed)))
        raise


def _keep_log(log: Path, kept: Path) -> str:
    """Copy the log of a failed run, and return where it is."""
    try:
        shutil.copyfile(log, kept)
    except OSError as error:  # a full disk must not hide why the run failed
        kept.unlink(missing_ok=True)
        return f"the log could not be kept: {error.strerror}"
    return f"log: {kept}"


def _failed_log(failed: Path) -> Path:
    return failed.with_name(f"{failed.name}.log")
