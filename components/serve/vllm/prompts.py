"""What vLLM is asked for a page: the picture, the prompt of the model's family, and greedy decoding."""

import base64
import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from components.serve.config import ServeConfig
from components.serve.reading.evaluated import evaluated_reading
from components.serve.reading.version_reading import VersionReading, version_reading
from components.serve.vllm.generation_settings import generation_arguments, has_penalty
from components.shared.models.base_models import base_model_location
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_processor, model_type_of
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.reading.image_text_inputs import prompt_text
from components.shared.vllm.served_families import SERVED_FAMILIES

WHOLE_PROMPT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
"""The chat template of a vLLM server that this service starts: the text of a request is the whole prompt, with the
family's image token, so that a page has the same prompt as in training and in evaluation."""
_TOKENS_BETWEEN_EVENTS = 64  # of an answer that nobody follows
_GREEDY = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Given in full: what a request leaves out, vLLM takes from the model's generation_config.json, if it reads that."""


@dataclass(frozen=True)
class PageWish:
    """How a page shall be read: see ``PageJob``; ``followed`` says that somebody reads the text while it is written."""

    image: Image.Image
    instruction: str | None
    max_new_tokens: int
    followed: bool


@dataclass(frozen=True)
class ModelInVllm:
    """A model in vLLM.

    Attributes:
        cache_salt: parts vLLM's prefix cache of it from that of older weights of this name.
        reading: how its pages are read; None: as the base's.
    """

    name: str
    cache_salt: str | None = None
    reading: VersionReading | None = None


class Prompts:
    """Makes requests for pages.

    Args:
        config: names the base, whose processor is loaded.
        whole_prompts: the server has ``WHOLE_PROMPT_TEMPLATE``; otherwise its own chat template makes the prompt.

    Raises:
        UserError: there is no such base, the rule against repetitions is the family's and there is none, or the base's
            generation_config.json asks for what vLLM does not do; or the base is a package that cannot be read.
    """

    def __init__(self, config: ServeConfig, whole_prompts: bool) -> None:
        base = config.base_model or config.model
        source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        self._processor: Any = load_processor(base, **source)
        self.model_type = model_type_of(base, **source)
        self._family = family_of(self.model_type)
        self._whole_prompts = whole_prompts
        self._greedy = _GREEDY | generation_arguments(base, config.revision)
        self._config = config
        self.of_base = self.reading_of(Path(base_model_location(base)))  # a whole model's package can be a base

    def reading_of(self, folder: Path) -> VersionReading:
        """Return how the pages of the version in a folder are read.

        Raises:
            UserError: its package does not say how it was evaluated.
        """
        evaluated = evaluated_reading(folder)
        served = SERVED_FAMILIES.get(self.model_type)
        sees = served.image_options() if served else {}
        found = version_reading(self._config, evaluated, self._processor, self._family, always_sees=sees)
        if evaluated is None or not has_penalty(self._greedy):
            return found
        # The evaluation's confidences are those after it.
        return replace(found, differs=(*found.differs, "vLLM's confidences, which are those before the penalty"))

    def is_own(self, rendered: str) -> bool:
        """Return whether a server's rendered prompt is the family's, whatever number of image tokens a picture has."""
        return self._simplified(rendered) == self._simplified(prompt_text(self._processor, self._family, None))

    def _simplified(self, text: str) -> str:
        text = text.removeprefix(self._processor.tokenizer.bos_token or "")
        if token := getattr(self._processor, "image_token", None):
            text = re.sub(f"(?:{re.escape(token)})+", token, text)
        return text.strip()

    def request(self, model: ModelInVllm, page: PageWish) -> dict[str, Any]:
        """Return the body of ``POST /v1/chat/completions`` for a page; several threads may call this at once.

        Raises:
            UserError: the instruction holds the image token.
        """
        reading = model.reading or self.of_base
        prompt = prompt_text(self._processor, reading.family, page.instruction)
        text = prompt if self._whole_prompts else page.instruction or reading.family.prompt
        parts = [{"type": "image_url", "image_url": {"url": _as_address(page.image)}}, {"type": "text", "text": text}]
        wish: dict[str, Any] = {
            "model": model.name,
            "messages": [{"role": "user", "content": parts}],
            "max_completion_tokens": page.max_new_tokens,
            "logprobs": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._greedy,
        }
        if model.cache_salt is not None:
            wish["cache_salt"] = model.cache_salt
        if not page.followed:
            wish["stream_interval"] = _TOKENS_BETWEEN_EVENTS
        if self._whole_prompts:
            begin = self._processor.tokenizer.bos_token
            wish["add_special_tokens"] = not (begin and prompt.startswith(begin))  # as text_options does
        if reading.no_repeat is not None:
            wish["vllm_xargs"] = no_repeat_arguments(reading.no_repeat, page.max_new_tokens)
        return wish


def no_repeat_arguments(rule: NoRepeatNgrams, max_new_tokens: int) -> dict[str, Any]:
    """Return a request's arguments for vLLM's ``NGramPerReqLogitsProcessor``, whose window must be a number."""
    arguments: dict[str, Any] = {"ngram_size": rule.size, "window_size": rule.window or max_new_tokens}
    return {**arguments, "whitelist_token_ids": list(rule.allowed)} if rule.allowed else arguments


def _as_address(image: Image.Image) -> str:
    """Return a page as ``data:`` address; pages are grey (``documents/opening.py``), so one channel is all of it."""
    stream = io.BytesIO()
    image.convert("L").save(stream, format="PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
