"""One page, read by vLLM."""

import asyncio
import time
from contextlib import aclosing

from components.serve.batching.page_job import PageJob, PageReading, Phase, RequestTimeoutError
from components.serve.engines.protocol import EngineDownError, EngineStoppedError
from components.serve.observability.request_spans import trace_headers
from components.serve.vllm.answer import StreamedAnswer
from components.serve.vllm.client import VllmRefusedError, VllmUnreachableError
from components.serve.vllm.lives import Lives
from components.serve.vllm.prompts import PageWish
from components.shared.errors import UserError

_SERVER_ERROR = 500


async def read_page(lives: Lives, job: PageJob) -> None:
    """Read a page and hand over what was read or the error; vLLM stops reading a page that nobody waits for."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def end(_: object) -> None:
        if job.result.cancelled():
            loop.call_soon_threadsafe(task.cancel)

    job.result.add_done_callback(end)
    try:
        async with asyncio.timeout(job.deadline - time.monotonic()):
            reading = await _reading(lives, job)
        lives.meter.page(reading)
        lives.productive = True
        job.finish(reading)
    except TimeoutError:
        lives.doubted.set()
        job.fail(RequestTimeoutError("the request's time is over"))
    except asyncio.CancelledError:
        job.fail(EngineDownError(lives.outage) if lives.outage else EngineStoppedError("the engine has stopped"))
    except VllmUnreachableError:
        lives.doubted.set()
        job.fail(EngineDownError("the vLLM server was lost while it read the page"))
    except VllmRefusedError as error:
        if error.status >= _SERVER_ERROR:
            lives.doubted.set()
            lives.meter.failed("vllm")
            job.fail(error if await _is_healthy(lives) else EngineDownError("vLLM's engine has ended"))
        else:
            job.fail(UserError(f"vLLM does not read it: {error}", where="the page"))
    except Exception as error:
        job.fail(error)


async def _is_healthy(lives: Lives) -> bool:
    """Return whether vLLM reads pages; a server whose engine has died still answers, for a moment, with 500."""
    try:
        return await lives.client.is_healthy()
    except EngineDownError:
        return False


async def _reading(lives: Lives, job: PageJob) -> PageReading:
    taken = time.monotonic()
    page = PageWish(job.image, job.instruction, job.max_new_tokens, followed=job.on_text is not None)
    wish = await asyncio.to_thread(lives.prompts.request, lives.model_in_vllm(job.model), page)
    phases = (Phase("queue", job.arrived, taken), Phase("prepare", taken, time.monotonic()))
    job.phases.extend(phases)
    answer = StreamedAnswer(job, {phase.name: phase.ended - phase.began for phase in phases})
    async with aclosing(lives.client.completion(wish, trace_headers(job.span))) as chunks:
        async for chunk in chunks:
            lives.meter.wrote(job.model, answer.extend(chunk))
    return answer.reading(job.model)
