"""What the routes share: the engine behind its queue, the versions, who may ask, and how a request's pages are read."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from PIL import Image

from components.serve.adapters.calibrations import NONE, Calibrations
from components.serve.adapters.catalog import Catalog, UnknownModelError
from components.serve.adapters.following import AliasFollower
from components.serve.adapters.versions import Versions
from components.serve.batching.fair_queue import FairQueue, QueueClosedError, QueueFullError
from components.serve.batching.held_memory import HeldMemory, MemoryFullError
from components.serve.batching.page_job import PageJob, PageReading, RequestTimeoutError
from components.serve.config import ServeConfig
from components.serve.documents.opening import DocumentError, PageFile
from components.serve.documents.page_opener import PageOpener
from components.serve.engines.protocol import Engine, EngineDownError, EngineStoppedError
from components.serve.engines.text_stream import TextChangedError
from components.serve.http.authentication import Access
from components.serve.http.errors import ApiError
from components.serve.observability.meter import Meter
from components.serve.observability.request_spans import trace_pages
from components.serve.samples.keeper import SampleKeeper
from components.shared.errors import UserError


@dataclass(frozen=True)
class Wish:
    """How a request's pages shall be read.

    Attributes:
        client: whose request it is, for fairness.
        model: the name of a version or an alias; None: the default.
        instruction: the prompt's text; None: the model's own.
        max_new_tokens: the longest answer of a page; None, or more than the version's: the version's.
    """

    client: str
    model: str | None
    instruction: str | None
    max_new_tokens: int | None


@dataclass
class Service:
    """The parts of a running service.

    Attributes:
        follower: follows the registry's aliases; None if the model is not one of them.
        documents: opens uploads.
        memory: what all requests hold.
        draining: the service has got SIGTERM and reports that it is not ready.
        samples: keeps pages where that is allowed; None: nothing is kept.
    """

    config: ServeConfig
    engine: Engine
    queue: FairQueue
    catalog: Catalog
    versions: Versions
    access: Access
    meter: Meter
    documents: PageOpener
    memory: HeldMemory
    follower: AliasFollower | None = None
    draining: bool = False
    samples: SampleKeeper | None = None

    async def opened(self, request: Request, contents: list[bytes]) -> list[list[Image.Image]]:
        """Return each upload's pages; each content leaves the list when it is opened, so that its memory is free.

        Raises:
            ApiError: one of them is refused, or they are not opened in the request's time, or there is no room in
                memory for the pages.
        """
        config, files = self.config, list[list[Image.Image]]()
        most, room = config.max_pages_per_request, config.max_queued_pixels
        try:
            while contents:
                files.append(
                    await self._pages_of(request, PageFile(contents.pop(0), config.max_pixels_per_page, most + 1, room))
                )
                most, room = most - len(files[-1]), room - sum(page.width * page.height for page in files[-1])
                if most < 0:
                    limit = config.max_pages_per_request
                    raise ApiError(413, f"more than {limit} pages in one request", code="too_many_pages")
        except BaseException:
            files.clear()  # the error holds this frame, and the request's share of the memory is given back
            raise
        request.state.holding.give_back_bytes()
        return files

    async def _pages_of(self, request: Request, file: PageFile) -> list[Image.Image]:
        deadline, holding = request.state.deadline, request.state.holding
        try:
            holding.take_pixels(0)
            async with asyncio.timeout(deadline - time.monotonic()):
                # No name for the future: it has the error, whose traceback has this frame.
                return await asyncio.wrap_future(self.documents.opened(file, deadline, holding.take_pixels))
        except DocumentError as error:
            raise ApiError(413 if error.too_large else 400, error.message, code=error.code) from error
        except TimeoutError as error:
            raise ApiError(504, "the files were not opened in time", code="timeout") from error
        except MemoryFullError as error:
            raise self.memory_full() from error
        finally:
            del file

    def memory_full(self) -> ApiError:
        """Return the answer for a request for which there is no room in memory."""
        return ApiError(429, "the requests that are there fill the memory", code="memory_full", headers=self._later())

    @asynccontextmanager
    async def reading(
        self,
        request: Request,
        pages: Sequence[Image.Image],
        wish: Wish,
        on_text: Callable[[int, str], None] | None = None,
    ) -> AsyncIterator[list["asyncio.Future[PageReading]"]]:
        """Queue a request's pages and yield their readings to come; leaving the block gives up those not finished.

        Args:
            on_text: called in the HTTP loop with a page's number (from 0) and each new piece of its text.

        Raises:
            ApiError: there is no such model, or no room in the queue, or the service is stopping.
        """
        if not self.versions.ready.done():
            raise ApiError(503, "the model is being loaded", code="loading", headers={"Retry-After": "5"})
        if self.versions.ready.exception() is not None:
            raise ApiError(503, "the model could not be loaded, and the service ends", code="stopping")
        if reason := self.engine.outage():
            raise as_api_error(EngineDownError(reason))
        try:
            admitted = self.catalog.admit(wish.model, request.state.request_id)
        except UnknownModelError as error:
            raise ApiError(404, f"there is no model {error}", code="model_not_found", param="model") from error
        version = admitted.version
        request.state.model, request.state.pages = version, len(pages)
        jobs = list[PageJob]()
        try:
            longest = self.catalog.reading(version).longest(wish.max_new_tokens)
            for number, page in enumerate(pages):
                follow = _in_this_loop(on_text, number) if on_text else None
                job = PageJob(page, wish.instruction, version, wish.client, longest, request.state.deadline, follow)
                job.request_id = request.state.request_id
                jobs.append(job)
            trace_pages(jobs)
            self._put(jobs)
            yield [asyncio.wrap_future(job.result) for job in jobs]
        finally:
            unfinished = [job for job in jobs if job.result.cancel()]
            if unfinished:
                self.queue.drop_unwanted()
            self.catalog.release(version)
            if self.samples is not None and not unfinished:
                self.samples.offer(request.state.request_id, jobs, admitted, wish.max_new_tokens)

    def calibrations(self, reading: PageReading, wish: Wish) -> Calibrations:
        """Return those that hold for a reading: none does for another instruction or a cut-off answer."""
        own = (None, self.catalog.reading(reading.model).family.prompt)
        measured = wish.instruction in own and not reading.truncated
        return self.catalog.calibrations(reading.model) if measured else NONE

    def _put(self, jobs: list[PageJob]) -> None:
        try:
            self.queue.put(jobs)
        except QueueFullError as error:
            raise ApiError(429, "too many pages wait", code="queue_full", headers=self._later()) from error
        except QueueClosedError as error:
            raise ApiError(503, "the service is stopping", code="stopping", headers={"Retry-After": "5"}) from error

    def _later(self) -> dict[str, str]:
        return {"Retry-After": str(self.meter.seconds_until_read(len(self.queue)))}


async def all_readings(request: Request, readings: list["asyncio.Future[PageReading]"]) -> list[PageReading]:
    """Wait for a request's readings, or until its client is gone.

    Raises:
        ApiError: a page failed, or the request's time is over, or the client is gone (499, which nobody reads).
    """
    gone = asyncio.ensure_future(_disconnected(request))
    everything: asyncio.Future[list[PageReading]] = asyncio.ensure_future(asyncio.gather(*readings))
    # asyncio reports an error that nobody looked at, as that of a client who is gone.
    everything.add_done_callback(lambda done: done.cancelled() or done.exception())
    watched: list[asyncio.Future[Any]] = [gone, everything]
    try:
        left = request.state.deadline - time.monotonic()
        done, _ = await asyncio.wait(watched, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise RequestTimeoutError  # here, too: an engine that hangs ends no page
        if not everything.done():
            raise ApiError(499, "the client closed the connection", code="client_closed_request")
        return everything.result()
    except Exception as error:
        raise as_api_error(error) from error
    finally:
        gone.cancel()
        everything.cancel()


def as_api_error(error: Exception) -> ApiError:
    """Return the answer for an error of the engine."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestTimeoutError):
        return ApiError(504, "the pages were not read in time", code="timeout")
    if isinstance(error, TextChangedError):
        return ApiError(500, "text that was sent would have to change: ask again without stream", code="stream_broken")
    if isinstance(error, EngineDownError):
        return ApiError(503, str(error), code="engine_down", headers={"Retry-After": "5"})
    if isinstance(error, EngineStoppedError):
        return ApiError(503, "the model was stopped before the page was read", code="stopping")
    if isinstance(error, UserError):
        return ApiError(400, str(error), code="unreadable_page")
    return ApiError(500, f"the page could not be read ({type(error).__name__})", code="page_failed")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _in_this_loop(on_text: Callable[[int, str], None], number: int) -> Callable[[str], None]:
    loop = asyncio.get_running_loop()

    def follow(text: str) -> None:
        loop.call_soon_threadsafe(on_text, number, text)

    return follow
