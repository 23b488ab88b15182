"""Where the vLLM server is: a process of this service, or an address that somebody else looks after."""

import asyncio
import io
import logging
import os
import secrets
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from components.serve.config import ServeConfig
from components.serve.vllm.client import VllmClient
from components.serve.vllm.command import command_of, environment_of
from components.serve.vllm.log_lines import LogLines
from components.shared.errors import UserError
from components.shared.vllm.server_process import HOST, end_server, free_port, start_server

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "DEEPSYNTH_VLLM_TOKEN"
_SECONDS_BETWEEN_LOOKS = 0.25
_SECONDS_BETWEEN_LOOKS_AT_AN_ADDRESS = 2.0
_FAILED_LOOKS = 2  # in a row, until an address counts as down


class Server(Protocol):
    """A vLLM server over several lives."""

    is_ours: bool
    """whether this service starts it"""

    def begin(self) -> VllmClient:
        """Begin a life; the server is not healthy yet."""

    def end_reason(self) -> str | None:
        """Return why the process has ended; None while it runs, and for an address."""

    async def until_gone(self, client: VllmClient, doubted: asyncio.Event) -> str:
        """Wait until the server is gone, and return why; ``doubted`` is set by whoever had a request fail."""

    def reads_pages(self) -> None:
        """Say that pages are read from now on."""

    def stop(self) -> None:
        """End the process, if it is ours."""


class StartedServer:
    """A server that this service starts, on a free port of 127.0.0.1 and with a key of its own.

    Start it from the thread that stops it: the kernel ends the server with that thread.
    """

    is_ours = True

    def __init__(self, config: ServeConfig, base_name: str, scratch: Path, with_rule: bool) -> None:
        self._config, self._base_name, self._scratch, self._with_rule = config, base_name, scratch, with_rule
        # What is wrong with the settings is told before anything starts.
        command_of(config, base_name, 0, scratch, with_rule)
        self._process: subprocess.Popen[bytes] | None = None
        self._lines = LogLines()

    def begin(self) -> VllmClient:
        """Start the process."""
        port, token = free_port(), secrets.token_urlsafe(32)
        self._lines = LogLines()
        command = command_of(self._config, self._base_name, port, self._scratch, self._with_rule)
        self._process = start_server(command, environment=environment_of(token), folder=self._scratch, output=None)
        threading.Thread(target=_pass_on, args=(self._process, self._lines), name="vllm log", daemon=True).start()
        logger.info("started a vLLM server, process %d, port %d", self._process.pid, port)
        return VllmClient(f"http://{HOST}:{port}", token)

    def end_reason(self) -> str | None:
        """Return how the process has ended; None while it runs."""
        if self._process is None or (status := self._process.poll()) is None:
            return None
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with exit code {status}"
        return f"the vLLM server has ended {how}" + (f": {self._lines.last_error}" if self._lines.last_error else "")

    async def until_gone(self, client: VllmClient, doubted: asyncio.Event) -> str:
        """Wait for the end of the process, or until it is no longer healthy after a request failed."""
        while True:
            if reason := self.end_reason():
                return reason
            if doubted.is_set():
                doubted.clear()
                if not await client.is_healthy():
                    return self.end_reason() or "the vLLM server is no longer healthy"
            with suppress(TimeoutError):
                await asyncio.wait_for(doubted.wait(), _SECONDS_BETWEEN_LOOKS)

    def reads_pages(self) -> None:
        """Keep back from now on what could be a page's text."""
        self._lines.reads_pages = True

    def stop(self) -> None:
        """End the process and those that it has started."""
        process, self._process = self._process, None
        if process is not None:
            end_server(process)


class GivenServer:
    """A server that runs elsewhere."""

    is_ours = False

    def __init__(self, config: ServeConfig) -> None:
        assert config.vllm_address is not None
        self._address, self._token = config.vllm_address.rstrip("/"), _token_of(config)

    def begin(self) -> VllmClient:
        """Return a client for the address."""
        return VllmClient(self._address, self._token)

    def end_reason(self) -> None:
        """Return None: the process is not ours."""

    async def until_gone(self, client: VllmClient, doubted: asyncio.Event) -> str:
        """Wait until some looks in a row have failed."""
        failed = 0
        while failed < _FAILED_LOOKS:
            with suppress(TimeoutError):
                await asyncio.wait_for(doubted.wait(), _SECONDS_BETWEEN_LOOKS_AT_AN_ADDRESS)
            doubted.clear()
            failed = 0 if await client.is_healthy() else failed + 1
        return "the vLLM server does not answer"

    def reads_pages(self) -> None:
        """Do nothing: its log is not passed on."""

    def stop(self) -> None:
        """Do nothing: somebody else looks after it."""


def server_of(config: ServeConfig, base_name: str, scratch: Path, with_rule: bool) -> Server:
    """Return the server that ``config`` names.

    Args:
        with_rule: a version has a rule against repetitions, whatever ``config`` says.

    Raises:
        UserError: a setting is wrong, or the token's file cannot be read.
    """
    if config.vllm_python is None:
        return GivenServer(config)
    return StartedServer(config, base_name, scratch, with_rule)


def _token_of(config: ServeConfig) -> str | None:
    if config.vllm_token_file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        token = config.vllm_token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        where = str(config.vllm_token_file)
        raise UserError(f"the token cannot be read ({type(error).__name__})", where=where) from error
    if not token:
        raise UserError("there is no token in it", where=str(config.vllm_token_file))
    return token


def _pass_on(process: "subprocess.Popen[bytes]", lines: LogLines) -> None:
    assert process.stdout is not None
    for line in io.TextIOWrapper(process.stdout, encoding="utf-8", errors="replace"):
        lines.pass_on(line)
