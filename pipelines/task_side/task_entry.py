"""Wraps the step of a KFP task: sets up logs, sends the run's events, and reports errors as one line."""

import json
import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from components.shared.errors import EXIT_CODE_USER_ERROR, UserError
from components.shared.programs.cpu_threads import limit_threads
from components.shared.programs.exit_in_order import ends_in_order
from components.shared.programs.machine_failures import named_failures
from components.shared.programs.step_config import parse_config_text, validated
from components.shared.telemetry.logs import configure_logs, exit_code_of
from components.shared.telemetry.tracing import step_span
from pipelines.settings.step_sections import STEP_CONFIGS
from pipelines.task_side.missing_artifacts import named_missing_files
from pipelines.task_side.persistent_folders import kept_output, take_over
from pipelines.task_side.run_events import tell


def run_task(step: str, config: str, **folders: str) -> Any:
    """Run ``components.<step>`` with the settings in ``config`` (JSON) and its artifact folders; return its result.

    If an earlier attempt at the run finished the step, reuse its output and return None. An error that the user can
    fix ends the process with one line and exit code 2.
    """
    kept = kept_output(step)
    # Resolved: the local runner may put a link into the path that is gone when the run has ended.
    output_dir = Path(folders["output_dir"]).resolve()
    with task(step, part="kept" if kept else None, output_dir=str(output_dir)):
        if kept:
            return take_over(kept, output_dir)
        values = parse_config_text(config, step) | folders
        settings = validated(STEP_CONFIGS[step], values, step)
        inputs = {name.removesuffix("_dir"): folder for name, folder in folders.items() if name != "output_dir"}
        with named_failures(step, settings), named_missing_files(inputs):
            return import_module(f"components.{step}.step").run(settings)


@contextmanager
def task(step: str, part: str | None = None, **details: Any) -> Iterator[None]:
    """Send the start and the end or error of ``step`` to the run's watcher; ``details`` are part of the end event.

    ``part`` names the task in words if the step has several.
    """
    with failing_in_order(step, part):
        configure_logs(step)
        limit_threads()
    warnings = _WarningEvents(step)
    for package in ("components", "pipelines"):
        logging.getLogger(package).addHandler(warnings)
    tell("start", step, part=part)
    with failing_in_order(step, part), step_span(step, part):
        yield
    tell("end", step, part=part, largest_process=_largest_process(), **json.loads(json.dumps(details)))


@contextmanager
def failing_in_order(step: str, part: str | None = None) -> Iterator[None]:
    """Report an error to the run's watcher, Kubernetes and the log; also works as a decorator.

    An error that the user can fix ends the process with one line and exit code 2.
    """
    try:
        with ends_in_order(f"{step} ({part})" if part else step):
            yield
    except UserError as error:
        tell("error", step, part=part, message=str(error), exit_code=EXIT_CODE_USER_ERROR)
        sys.exit(exit_code_of(error))
    except Exception as error:
        tell("error", step, part=part, message=f"{type(error).__name__}: {error}", exit_code=1)
        raise


def _largest_process() -> int:
    """Return the peak resident memory in bytes: the larger of this process's and of its largest child's."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(usage.ru_maxrss for usage in usages) * 1024


class _WarningEvents(logging.Handler):
    """Forwards the warnings of our own loggers as events: nobody reads the log of a successful run."""

    def __init__(self, step: str) -> None:
        super().__init__(logging.WARNING)
        self._step = step

    def emit(self, record: logging.LogRecord) -> None:
        tell("warning", self._step, message=record.getMessage())
