"""Keeps a vLLM server up: waits until it is healthy, loads the adapters, notices its end, and starts it again."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential

from components.serve.config import ServeConfig
from components.serve.engines.protocol import EngineDownError
from components.serve.observability.meter import Meter
from components.serve.reading.version_reading import VersionReading
from components.serve.vllm.client import VllmClient, VllmRefusedError, VllmUnreachableError
from components.serve.vllm.command import NO_REPEAT_PROCESSOR
from components.serve.vllm.prompts import ModelInVllm, PageWish, Prompts, no_repeat_arguments
from components.serve.vllm.proof import has_own_prompt, probe_page, read_probe
from components.serve.vllm.served_adapter import ServedAdapter, load_adapter, served_adapter
from components.serve.vllm.server import Server
from components.shared.errors import UserError, first_line
from components.shared.models.adapter_loading import adapter_kind, check_base_of_adapter
from components.shared.vllm.served_families import SERVED_FAMILIES

logger = logging.getLogger(__name__)

_LOADING = "the model is being loaded"
_SECONDS_BETWEEN_LOOKS = 0.2
_LONGEST_WAIT = 30.0  # seconds between two starts
_REFUSED_KEY = (401, 403)
_ALREADY_GONE = 404


class _LifeEndedError(Exception):
    """The server has ended, or could not be made ready, before a client's page was read."""


class Lives:
    """A vLLM server over its lives; use it in one asyncio loop.

    Args:
        config: the service's.
        base_name: the base's name in requests.
        server: where the server is.
        prompts: makes requests.
        meter: counts losses and recoveries.
        went_down: called when the server is lost, with the reason.
        scratch: a folder for copies of adapters.
    """

    def __init__(
        self,
        config: ServeConfig,
        base_name: str,
        server: Server,
        prompts: Prompts,
        meter: Meter,
        went_down: Callable[[str], None],
        scratch: Path,
    ) -> None:
        self.prompts, self.meter = prompts, meter
        self.outage: str | None = _LOADING
        self.doubted = asyncio.Event()
        """set by whoever had a request fail: the server's health is looked at"""
        self.productive = False
        """whether a client's page was read in this life"""
        self._config, self._base_name, self._server, self._went_down = config, base_name, server, went_down
        self._base = ModelInVllm(base_name)
        self._copies = scratch / ".vllm-adapters" if server.is_ours else None
        self._family = SERVED_FAMILIES.get(prompts.model_type)
        self._adapters: dict[str, ServedAdapter] = {}
        self._changing = asyncio.Lock()
        self._client: VllmClient | None = None
        self._lost_at: float | None = None
        self._own_prompt = True

    @property
    def client(self) -> VllmClient:
        """The client of this life."""
        if self._client is None:
            raise EngineDownError(self.outage or _LOADING)
        return self._client

    def model_in_vllm(self, version: str) -> ModelInVllm:
        """Return how requests to vLLM name a version: the base of a given address may have another name.

        Raises:
            UserError: the version has been unloaded.
        """
        if version == self._base_name:
            return self._base
        if version not in self._adapters:
            raise UserError("this version has been unloaded", where=version)
        return self._adapters[version].model

    async def keep_up(self, ready: "Future[VersionReading]") -> None:
        """Go through the server's lives; ``ready`` is done when the first one reads pages.

        Raises:
            UserError: the first life does not begin, or too many in a row end without a page.
        """
        while True:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(_LifeEndedError),
                stop=stop_after_attempt(self._config.vllm_restarts + 1) if self._server.is_ours else _never,
                wait=wait_exponential(multiplier=1, max=_LONGEST_WAIT),
                before_sleep=_tell,
                reraise=True,
            )
            try:
                await retrying(self._live, ready)
            except _LifeEndedError as error:
                mend = "look at its log lines above" if self._server.is_ours else "look at its log"
                raise UserError(
                    f"{error}, {self._config.vllm_restarts + 1} times in a row", where="vllm", mend=mend
                ) from error

    async def load(self, name: str, folder: Path) -> VersionReading:
        """Load an adapter, prove that it is used, and return how its pages are read.

        Raises:
            UserError: it is a whole model, an adapter of another base, or one that vLLM refuses or does not use; or its
                package has a rule against repetitions that the server does not know.
            EngineDownError: the server is down.
        """
        config = self._config
        if adapter_kind(folder) == "model":
            mend = "start another service with it as base_model, or take engine embedded"
            raise UserError("a vLLM server has one model, and this is a whole one", where=name, mend=mend)
        check_base_of_adapter(config.base_model or config.model, config.revision, folder)
        async with self._changing:
            if self.outage is not None:
                raise EngineDownError(self.outage)
            reading = await asyncio.to_thread(self.prompts.reading_of, folder)
            if not self._own_prompt:
                reading = replace(reading, differs=(*reading.differs, "the prompt's template"))
            adapter = await asyncio.to_thread(served_adapter, name, folder, reading, self._family, self._copies)
            try:
                await self._prove_the_rule_against_loops(self.client, adapter.model)
                await load_adapter(self.client, self.prompts, self._base, adapter)
            except BaseException as error:
                adapter.discard()
                if isinstance(error, VllmUnreachableError):
                    self.doubted.set()
                    raise EngineDownError(f"the vLLM server was lost ({error})") from error
                if isinstance(error, VllmRefusedError):
                    raise UserError(f"vLLM refuses it: {error}", where=name) from error
                raise
            self._adapters[name] = adapter
            return reading

    async def unload(self, name: str) -> None:
        """Unload an adapter; in a server that is down it is not loaded again.

        Raises:
            UserError: vLLM refuses; the adapter stays.
        """
        async with self._changing:
            if self.outage is None:
                try:
                    await self.client.unload_adapter(name)
                except VllmUnreachableError:
                    self.doubted.set()  # it is gone, and its adapters with it
                except VllmRefusedError as error:
                    if error.status != _ALREADY_GONE:
                        raise UserError(f"vLLM does not unload it: {error}", where=name) from error
            adapter = self._adapters.pop(name, None)
            if adapter is not None:
                adapter.discard()  # not before: vLLM may read the files as long as it has the adapter

    async def _live(self, ready: "Future[VersionReading]") -> None:
        """Begin a life and go through it; return if it has read pages.

        Raises:
            _LifeEndedError: it has read none.
        """
        self.productive = False
        self.doubted.clear()
        client = self._server.begin()
        try:
            reason = await self._life(client, ready)
            self._lost(reason)
        finally:
            self._client = None
            await client.close()
            await asyncio.to_thread(self._server.stop)
        if not self.productive:
            raise _LifeEndedError(reason)

    async def _life(self, client: VllmClient, ready: "Future[VersionReading]") -> str:
        """Make the server ready, let pages be read until it is gone, and return why it is."""
        first = not ready.done()
        try:
            await self._made_ready(client, first)
        except (VllmUnreachableError, VllmRefusedError, UserError) as error:
            if first and isinstance(error, UserError):
                raise
            return f"the vLLM server is not ready: {first_line(error)}"
        self._client, self.outage = client, None
        if first:
            ready.set_result(self.prompts.of_base)
        elif self._lost_at is not None:
            seconds = time.monotonic() - self._lost_at
            self.meter.engine_recovered(seconds)
            logger.info("the vLLM server reads pages again, %.1f s after it was lost", seconds)
        self._lost_at = None
        return await self._server.until_gone(client, self.doubted)

    def _lost(self, reason: str) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self.meter.engine_lost()
        self.outage = reason + (" and is started again" if self._server.is_ours else "")
        logger.error("%s", reason)
        self._went_down(self.outage)

    async def _made_ready(self, client: VllmClient, first: bool) -> None:
        """Wait until the server is healthy, and load and prove what it shall read with."""
        deadline = time.monotonic() + self._config.vllm_start_seconds
        while not await client.is_healthy():
            if reason := self._server.end_reason():
                raise (
                    UserError(reason, where="vllm", mend="look at its log lines above")
                    if first
                    else VllmUnreachableError(reason)
                )
            if time.monotonic() > deadline:
                said = f"not healthy after {self._config.vllm_start_seconds:g} s"
                mend = "look at its log, or give more vllm_start_seconds"
                raise UserError(said, where="vllm", mend=mend) if first else VllmUnreachableError(said)
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        await self._find_base(client)
        self._server.reads_pages()
        await read_probe(client, self.prompts, self._base)  # the first page of a server takes longest
        self._own_prompt = self._server.is_ours or await has_own_prompt(client, self.prompts, self._base)
        if not self._own_prompt:
            logger.warning("the vLLM server's chat template makes another prompt than training and evaluation had")
        await self._prove_the_rule_against_loops(client, self._base)
        async with self._changing:
            for adapter in self._adapters.values():
                await load_adapter(client, self.prompts, self._base, adapter)

    async def _find_base(self, client: VllmClient) -> None:
        try:
            cards = await client.models()
        except VllmRefusedError as error:
            if error.status not in _REFUSED_KEY:
                raise
            mend = "give the server's API key: vllm_token_file, or DEEPSYNTH_VLLM_TOKEN"
            raise UserError("the vLLM server refuses the key", where="vllm", mend=mend) from error
        bases = [card.id for card in cards if card.parent is None]
        if self._base_name in bases:
            self._base = ModelInVllm(self._base_name)
        elif len(bases) == 1 and not self._server.is_ours:
            self._base = ModelInVllm(bases[0])
            logger.info("the vLLM server calls the base %s", bases[0])
        else:
            raise UserError("the vLLM server has no base of this name", where=self._base_name, mend="give base_model")

    async def _prove_the_rule_against_loops(self, client: VllmClient, model: ModelInVllm) -> None:
        """Send a size that the logits processor refuses: a server without the processor ignores it and answers.

        Args:
            model: the one whose rule shall hold; it need not be loaded.
        """
        rule = (model.reading or self.prompts.of_base).no_repeat
        if rule is None:
            return
        page = self.prompts.request(self._base, PageWish(probe_page(), None, 1, followed=False))
        arguments = no_repeat_arguments(rule, 1) | {"ngram_size": -1}
        try:
            async for _ in client.completion(page | {"vllm_xargs": arguments}):
                continue
        except VllmRefusedError as error:
            if error.status >= 500:
                raise
            return
        raise UserError(
            "the vLLM server has no logits processor for no_repeat_ngram_size",
            where=model.name,
            mend="restart the service with this version as model or among adapters"
            if self._server.is_ours
            else f"start the server with --logits-processors {NO_REPEAT_PROCESSOR}",
        )


def _never(_: RetryCallState) -> bool:
    return False


def _tell(state: RetryCallState) -> None:
    logger.warning("the vLLM server is started again in %.0f s", state.upcoming_sleep)
