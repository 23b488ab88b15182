"""A vLLM server of this machine, started for a proof and ended after it."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from components.export.proof.vllm_client import VllmServer
from components.shared.artifacts.output_folder import scratch_folder
from components.shared.errors import UserError
from components.shared.vllm.server_process import HOST, end_server, free_port, server_command, start_server

_STARTS_WITHIN = 1200  # seconds: a large model is read from its disk first
# One request at a time is what a proof asks; GiB of the CPU's key-value cache, if the user says nothing.
_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
# Python's path is this program's, whose packages vLLM must not import; with a key the server would refuse our requests.
_NOT_PASSED_ON = ("PYTHONPATH", "VLLM_API_KEY")
_ARGUMENTS = ("--enforce-eager", "--max-num-seqs", "1")


@contextmanager
def running_vllm(python: Path, model: Path | str, arguments: Sequence[str]) -> Iterator[VllmServer]:
    """Start vLLM with the interpreter ``python``, which has it installed, and end it when the block ends.

    Raises:
        UserError: it does not start; the message has the end of its log.
    """
    port = free_port()
    command = [*server_command(python, str(model), port), *_ARGUMENTS, *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    with scratch_folder("deepsynth-vllm") as scratch:
        log = scratch / "vllm.log"
        with log.open("wb") as output:
            process = start_server(command, environment={**_ENVIRONMENT, **environment}, folder=scratch, output=output)
        try:
            server = VllmServer(f"http://{HOST}:{port}")
            _wait(server, process, log)
            yield server
        finally:
            end_server(process)


def _wait(server: VllmServer, process: "subprocess.Popen[bytes]", log: Path) -> None:
    ends = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise _not_started(f"vLLM ended with {process.returncode}", log)
        try:
            server.models()
            return
        except UserError:
            time.sleep(1)  # it imports and loads
    raise _not_started(f"vLLM did not answer within {_STARTS_WITHIN} s", log)


def _not_started(problem: str, log: Path) -> UserError:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "nothing")
    return UserError(
        f"{problem}; its log says: {said[-500:]}",
        where="--vllm-python",
        mend="start it as the package's README.md says",
    )
