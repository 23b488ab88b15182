"""Proves that vLLM reads with an adapter.

vLLM skips an adapter's modules whose names it does not know with a line at level DEBUG, says that the adapter is
loaded, and lets the base answer under the adapter's name. So a page is read with both, and log-probabilities are
compared.
"""

import asyncio
import math
from typing import Any

from PIL import Image, ImageDraw

from components.serve.vllm.client import VllmClient, VllmUnreachableError
from components.serve.vllm.prompts import ModelInVllm, PageWish, Prompts
from components.serve.vllm.wire import TokenLogprob
from components.shared.errors import UserError

_TOKENS = 16
_MOST_SECONDS = 600.0
_MORE: dict[str, Any] = {"ignore_eos": True, "top_logprobs": 5}  # more numbers to compare
_READINGS = 2  # each; how much they differ among themselves is what kernels and batches change


async def prove_adapter(client: VllmClient, prompts: Prompts, base: ModelInVllm, adapter: ModelInVllm) -> None:
    """Read a page with the base and with an adapter, twice each, in turn.

    Raises:
        UserError: the two do not differ by more than the same model's readings among themselves.
        VllmUnreachableError, VllmRefusedError: the page cannot be read.
    """
    of_base, of_adapter = [], []
    for _ in range(_READINGS):
        of_base.append(await read_probe(client, prompts, base))
        of_adapter.append(await read_probe(client, prompts, adapter))
    noise = max(difference(*of_base), difference(*of_adapter))
    least = min(difference(one, other) for one in of_base for other in of_adapter)
    if least <= noise:
        raise UserError(
            f"vLLM does not use this adapter: with it the log-probabilities of {_TOKENS} tokens are the base's "
            f"(difference {least:.2g}, two readings by one model {noise:.2g})",
            where=adapter.name,
            mend="vLLM skips modules whose names it does not know: load a package that was exported with serving: "
            "[vllm], or read with engine embedded",
        )


async def has_own_prompt(client: VllmClient, prompts: Prompts, model: ModelInVllm) -> bool:
    """Return whether a page has the prompt of training in vLLM; also if vLLM does not say which it has.

    Raises:
        VllmUnreachableError, VllmRefusedError: the page cannot be read.
    """
    page = prompts.request(model, PageWish(probe_page(), None, 1, followed=False)) | {"return_prompt_text": True}
    rendered = [chunk.prompt_text async for chunk in client.completion(page) if chunk.prompt_text]
    return all(map(prompts.is_own, rendered))


def difference(one: list[TokenLogprob], other: list[TokenLogprob]) -> float:
    """Return the largest difference between log-probabilities of the same candidates, up to where the tokens differ."""
    largest = 0.0
    for mine, theirs in zip(one, other, strict=False):
        candidates, others = (
            {each.token: each.logprob for each in (step, *step.top_logprobs)} for step in (mine, theirs)
        )
        if not candidates.keys() & others.keys():
            return math.inf  # no candidate in common: the models do not agree at all
        largest = max(
            [largest, *(abs(candidates[token] - others[token]) for token in candidates.keys() & others.keys())]
        )
        if mine.token != theirs.token:
            break  # from here on they answer another question
    return largest


def probe_page() -> Image.Image:
    """Return a page with some lines of text, the same each time."""
    page = Image.new("RGB", (448, 224), "white")
    draw = ImageDraw.Draw(page)
    for number, text in enumerate(("Page 1 of 12", "The quick brown fox", "jumps over 42 dogs.")):
        draw.text((16, 16 + 64 * number), text, fill="black", font_size=32)
    return page


async def read_probe(client: VllmClient, prompts: Prompts, model: ModelInVllm) -> list[TokenLogprob]:
    """Return the first tokens that a model in vLLM writes for the probe page.

    Raises:
        VllmUnreachableError, VllmRefusedError: the page cannot be read.
    """
    page = prompts.request(model, PageWish(probe_page(), None, _TOKENS, followed=False)) | _MORE
    found: list[TokenLogprob] = []
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            async for chunk in client.completion(page):
                for choice in chunk.choices:
                    if choice.logprobs is not None:
                        found += choice.logprobs.content or []
    except TimeoutError as error:
        raise VllmUnreachableError(f"a page was not read in {_MOST_SECONDS:g} s") from error
    return found
