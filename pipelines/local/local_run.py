"""The process that runs KFP's local runner: ``python -m pipelines.local.local_run JOB.json``.

``deepsynth run`` starts it in its own process group, sends its output to the run's log, and holds the other end of
its standard input: when that closes, ``deepsynth run`` is gone and the group ends itself.
"""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.shared.artifacts.output_folder import scratch_folder
from pipelines.local.forked_tasks import fork_tasks
from pipelines.local.local_compilation import compiled_without_unset_parameters


def main(job_file: str) -> int:
    """Run the job's pipeline; return 0, or 1 if a task failed."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    from kfp import local

    with scratch_folder("deepsynth-run") as scratch:
        _remove_when_terminated(scratch)
        root = Path(job["pipeline_root"])
        if "docker" in job:
            runner = _docker_runner(job["docker"])
        else:
            _start_thread(_end_with_the_parent, lambda: None)
            root = _root_without_python3(root, scratch)
            fork_tasks()
            runner = local.SubprocessRunner(use_venv=False)
        local.init(runner, pipeline_root=str(root), workspace_root=str(scratch / "workspace"))
        try:
            package = scratch / "pipeline.yaml"
            compiled_without_unset_parameters(package, job["prepare_partitions"])(config=job["config"])
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def _remove_when_terminated(scratch: Path) -> None:
    """Remove the temporary folder on SIGTERM, by which ``deepsynth run`` ends this process."""

    def remove(number: int, _: Any) -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, remove)


def _docker_runner(job: dict[str, Any]) -> Any:
    """Return KFP's runner for the containers of ``pipelines.local.docker_run``; they end with the parent."""
    from docker import from_env, types
    from kfp import local
    from kfp.local import docker_task_handler

    from pipelines.local.docker_containers import RUN_LABEL, ContainerRunner, RunContainers

    arguments = job["arguments"]
    run_container = ContainerRunner()

    def end_containers() -> None:
        run_container.ending = True
        RunContainers(from_env(), arguments["labels"][RUN_LABEL]).end()

    _start_thread(_end_with_the_parent, end_containers)
    docker_task_handler.run_docker_container = run_container
    mounts = [types.Mount(path, path, type="bind", read_only=only_read) for path, only_read in job["mounts"].items()]
    devices = [types.DeviceRequest(count=-1, capabilities=[["gpu"]])] if job["gpus"] else []
    return local.DockerRunner(mounts=mounts, device_requests=devices, **arguments)


def _root_without_python3(root: Path, scratch: Path) -> Path:
    """Return a link to ``root`` if its path contains ``python3``, which KFP replaces by the interpreter's path."""
    if "python3" not in str(root):
        return root
    link = scratch / "root"
    link.symlink_to(root, target_is_directory=True)
    return link


def _start_thread(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _end_with_the_parent(first: Callable[[], None]) -> None:
    # Not sys.stdin: its lock, held by this thread, would abort the interpreter's shutdown.
    while os.read(0, 1024):
        pass
    first()
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
