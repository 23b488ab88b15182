"""Starts a local run's tasks from one process that has imported their libraries already.

Each task is a process of its own, as KFP's subprocess runner makes them, but forked from Python's fork server. So
torch, transformers, PEFT, MLflow and KFP are imported once in a run and not in each task.
"""

import atexit
import importlib.util
import multiprocessing
import os
import runpy
import sys
from typing import Any

from kfp.dsl.component_factory import EXECUTOR_MODULE

from components.shared.artifacts.output_folder import scratch_folder
from components.shared.foreign_files.fork_server import running_fork_server


def fork_tasks() -> None:
    """Let KFP's subprocess runner fork its tasks, unless Unsloth is installed.

    Unsloth changes transformers and PEFT while it is imported, and must be imported before them.
    """
    if importlib.util.find_spec("unsloth"):
        return
    from kfp.local import subprocess_task_handler

    running_fork_server(["pipelines.local.task_libraries"])  # it imports while this process compiles the pipeline
    subprocess_task_handler.run_local_subprocess = run_task


def run_task(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
    """Run a task in a forked process; return its exit code, or the negative number of the signal that ended it.

    Args:
        full_command: ``sh -ec SCRIPT SOURCE ARGUMENT ...``, KFP's command of a lightweight Python component
            (``kfp.dsl.component_factory``): the script writes SOURCE to a file and runs KFP's executor on it.
        env_vars: additional variables of the task.
    """
    source, arguments = full_command[3], full_command[4:]
    context = running_fork_server([])
    process = context.Process(target=_task, args=(source, arguments, env_vars or {}))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _task(source: str, arguments: list[str], variables: dict[str, Any]) -> None:
    """Do what KFP's script does, in this process."""
    multiprocessing.set_start_method(None, force=True)  # the default, not this process's own method
    os.environ.update(variables, _KFP_RUNTIME="true")
    try:
        with scratch_folder("deepsynth-task") as folder:
            program = folder / "ephemeral_component.py"
            program.write_text(source, encoding="utf-8")
            sys.argv = [EXECUTOR_MODULE, "--component_module_path", str(program), *arguments]
            runpy.run_module(EXECUTOR_MODULE, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends a process without them
