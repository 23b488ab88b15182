"""The containers of a local run: KFP's runner starts them and waits; the run's label finds and ends all of them."""

import codecs
import signal
import time
from contextlib import suppress
from typing import Any

from components.shared.errors import EXIT_CODE_USER_ERROR
from pipelines.task_side.run_events import tell

RUN_LABEL = "deepsynth.run"
_KILLED = 128 + signal.SIGKILL
_ATTEMPTS = 3
_SECONDS_TO_END_IN_ORDER = 10.0
_SECONDS_UNTIL_A_LAST_CONTAINER_IS_SEEN = 0.5


class RunContainers:
    """All containers that have one run's label.

    Args:
        client: a ``docker.DockerClient``.
        label: the value of ``deepsynth.run``, unique to this run.
    """

    def __init__(self, client: Any, label: str) -> None:
        self._client = client
        self._label = label
        self._next_sample = 0.0

    def engine_arguments(self) -> dict[str, Any]:
        """Return the container arguments that depend on the engine's mode."""
        options = " ".join(self._client.info().get("SecurityOptions") or [])
        arguments: dict[str, Any] = {}
        if "name=rootless" in options:
            arguments["user"] = "0:0"  # root in a rootless container is the user outside
        if "name=selinux" in options:
            arguments["security_opt"] = ["no-new-privileges", "label=disable"]  # keeps the labels of mounted files
        return arguments

    def memory_bytes(self) -> int:
        """Return the containers' memory without the page cache; sampled once a second, 0 in between."""
        import docker

        if time.monotonic() < self._next_sample:
            return 0
        self._next_sample = time.monotonic() + 1.0
        total = 0
        # A container that just ended, or a busy engine, costs one sample.
        with suppress(docker.errors.APIError, OSError):
            for container in self._list():
                memory = self._client.api.stats(container.id, stream=False, one_shot=True).get("memory_stats", {})
                cached = memory.get("stats", {})
                total += memory.get("usage", 0) - cached.get("total_inactive_file", cached.get("inactive_file", 0))
        return total

    def end(self) -> None:
        """Stop and remove all containers; their steps first get SIGTERM and ten seconds to clean up."""
        import docker

        deadline = time.monotonic() + _SECONDS_TO_END_IN_ORDER
        try:
            for container in self._list():
                # A container's first process is a shell that forwards no signals, so signal all others.
                with suppress(docker.errors.APIError):
                    container.exec_run(["sh", "-c", "kill -TERM -1"], detach=True)
            while self._list() and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            self._remove()
            # The process that starts containers may have been killed just after it asked for one.
            time.sleep(_SECONDS_UNTIL_A_LAST_CONTAINER_IS_SEEN)
            self._remove()

    def any_left(self) -> bool:
        """Return whether any container is left, running or not."""
        return bool(self._list(everything=True))

    def _list(self, everything: bool = False) -> list[Any]:
        containers: list[Any] = self._client.containers.list(
            all=everything, filters={"label": f"{RUN_LABEL}={self._label}"}, ignore_removed=True
        )
        return containers

    def _remove(self) -> None:
        import docker

        for container in self._list(everything=True):
            with suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)


class ContainerRunner:
    """Runs a task's container for KFP's ``DockerTaskHandler``, instead of its ``run_docker_container``.

    KFP 2.17's own function pulls missing images, and takes a container that was removed before its exit code was read
    as a success. This one restarts a container that was killed, e.g. by the kernel; its step finds its checkpoints.
    It does not restart a step that failed by itself, which would fail again.
    """

    def __init__(self) -> None:
        self.ending = False
        """set while the run ends: nothing is started after that"""

    def __call__(self, client: Any, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any) -> int:
        """Return the container's exit code."""
        code = _KILLED
        for attempts_left in reversed(range(_ATTEMPTS)):
            if self.ending:
                break
            code, out_of_memory = self._run(client, image, command, volumes, arguments)
            if code < 128 or self.ending:
                return code
            reason = "out of memory" if out_of_memory else f"by {_signal_name(code - 128)}"
            tell("killed", "", exit_code=code, reason=reason, again=attempts_left > 0)
            print(f"the container was killed ({reason}), exit code {code}", flush=True)
        return code

    def _run(
        self, client: Any, image: str, command: list[str], volumes: dict[str, Any], arguments: dict[str, Any]
    ) -> tuple[int, bool]:
        import docker

        try:
            container = client.containers.run(image, command, detach=True, volumes=volumes, **arguments)
        except docker.errors.APIError as error:
            tell("error", "docker", message=str(error.explanation or error), exit_code=EXIT_CODE_USER_ERROR)
            raise
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            for chunk in container.logs(stream=True):
                print(decoder.decode(chunk), end="", flush=True)
            code = int(container.wait()["StatusCode"])
            container.reload()
            return code, bool(container.attrs["State"].get("OOMKilled"))
        except docker.errors.NotFound:  # someone else removed it
            return _KILLED, False
        finally:
            with suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)


def _signal_name(number: int) -> str:
    if number == signal.SIGKILL:
        return "SIGKILL, as the kernel does when memory runs out"
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
