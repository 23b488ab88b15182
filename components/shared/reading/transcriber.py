"""Reads pages with a model by greedy generation, in the same way for evaluation and for the checks of a package."""

import copy
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from PIL import Image
from transformers import BatchFeature, LogitsProcessorList, PreTrainedModel, ProcessorMixin

from components.shared.models.model_families import ModelFamily
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams, NoRepeatNgramsProcessor
from components.shared.reading.graphed_decoding import GraphedDecoding, RecordingError
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.reading.line_readings import LineReading, line_readings
from components.shared.reading.token_confidences import TokenConfidences, mean_and_lowest
from components.shared.reading.vision_forwards import install_vision_forwards

log = logging.getLogger(__name__)

_CLEANED_UP = 4  # characters of the longest sequence that clean_up_tokenization replaces
_KEPT_SCORES = 16  # of a step; a token below them is no near tie


class Page(Protocol):
    """A page to read: a dataset's sample, or a page of a request to the service."""

    @property
    def image(self) -> Image.Image:
        """The page as an RGB picture."""

    @property
    def instruction(self) -> str | None:
        """The prompt's text; None: the family's own."""


@dataclass(frozen=True)
class Prediction:
    """What a model wrote for one page.

    Attributes:
        text: the transcription; empty if the page failed (see ``error``).
        truncated: it reached ``max_new_tokens`` without an end-of-sequence token.
        seconds: the batch's time, including its preparation, divided by its pages.
        error: why the page has no transcription; None if it has one.
        mean_logprob: mean log-probability (natural logarithm) of the answer's tokens, its end token included; None if
            it is not known, as of classic OCR engines.
        lines: the text's lines that are not empty, with their log-probabilities; none where these are not known.
    """

    text: str
    truncated: bool = False
    seconds: float = 0.0
    error: str | None = None
    mean_logprob: float | None = None
    lines: tuple[LineReading, ...] = ()


@dataclass(frozen=True)
class StepByStep:
    """A page's answer with the scores that it was chosen by.

    Attributes:
        text: the transcription.
        tokens: the answer's tokens, with the end token if there is one.
        best: for each token, the scores of the most likely tokens, the best first.
    """

    text: str
    tokens: list[int]
    best: list[dict[int, float]]


@dataclass(frozen=True)
class PreparedPages:
    """A batch of pages as the model's input tensors, in host memory; ``seconds`` is the time that preparing took."""

    inputs: BatchFeature
    pages: int
    seconds: float


class Transcriber:
    """A model that reads pages.

    Args:
        model: the model, in evaluation mode and on its device.
        processor: the model's processor.
        family: the model's family.
        max_new_tokens: maximum length of an answer in tokens.
        no_repeat: sequences of tokens that an answer may not repeat; None for greedy search alone.
        graphed: on a GPU, replay CUDA graphs (``graphed_decoding.py``). This is faster and also greedy, but uses
            other kernels, so that between two equally likely tokens the choice can differ.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        family: ModelFamily,
        max_new_tokens: int,
        graphed: bool = True,
        no_repeat: NoRepeatNgrams | None = None,
    ) -> None:
        install_vision_forwards(model)
        self._of_thread, self._copying = threading.local(), threading.Lock()
        self._model: Any = model  # generate() is a mixin of the concrete classes, not of PreTrainedModel
        self._processor = processor
        self._family = family
        self._max_new_tokens = max_new_tokens
        self._token_texts: dict[int, str] = {}
        self.end_tokens = _end_tokens(model, processor)
        """each of them ends an answer"""
        self._no_repeat = no_repeat
        self._graphed = GraphedDecoding(model, self.end_tokens, self.pad_token, no_repeat) if graphed else None

    def read(self, pages: Sequence[Page]) -> list[Prediction]:
        """Transcribe pages as one batch; decoding is greedy, so the same batch gives the same texts."""
        return self.read_prepared(self.prepare(pages))

    def prepare(self, pages: Sequence[Page]) -> PreparedPages:
        """Return a batch for ``read_prepared``; several threads may call this at the same time."""
        started = time.perf_counter()
        inputs = generation_inputs(
            self._own_processor(), self._family, [page.image for page in pages], [page.instruction for page in pages]
        ).to(self._model.dtype)
        return PreparedPages(inputs, len(pages), time.perf_counter() - started)

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens, without special tokens; several threads may call this at once."""
        decoded: Any = self._own_processor()
        return str(decoded.tokenizer.decode(list(tokens), skip_special_tokens=True))

    @property
    def rewritten(self) -> int:
        """How many of a text's last characters further tokens may rewrite, as `` n't`` to ``n't``; 0 for most."""
        return _CLEANED_UP if self._processor.tokenizer.clean_up_tokenization_spaces else 0

    def text_of_token(self, token: int) -> str:
        """Return the text of one token; each is decoded once, since an answer has hundreds, mostly the same."""
        text = self._token_texts.get(token)
        if text is None:
            text = self._token_texts[token] = self.text_of([token])
        return text

    @torch.inference_mode()
    def read_prepared(self, prepared: PreparedPages) -> list[Prediction]:
        """Transcribe a batch, as ``read`` does."""
        started = time.perf_counter()
        inputs = prepared.inputs.to(self._model.device)
        confidences = TokenConfidences()
        output = self._generated(inputs, confidences)
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        rows = confidences.of_answers(output)
        found = [self._prediction(answer, row) for answer, row in zip(answers, rows, strict=True)]
        seconds = (prepared.seconds + time.perf_counter() - started) / prepared.pages
        return [replace(prediction, seconds=seconds) for prediction in found]

    @torch.inference_mode()
    def read_step_by_step(self, page: Page) -> StepByStep:
        """Transcribe a page as ``read`` does without recorded steps, and keep the most likely tokens of each step."""
        inputs = self.prepare([page]).inputs.to(self._model.device)
        output = self._generate(inputs, return_dict_in_generate=True, output_scores=True)
        answer = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        end = next((index for index, token in enumerate(answer) if token in self.end_tokens), len(answer) - 1)
        best = []
        for scores in output.scores[: end + 1]:
            values, tokens = scores[0].float().topk(_KEPT_SCORES)
            best.append(dict(zip(tokens.tolist(), values.tolist(), strict=True)))
        return StepByStep(self._decoded(answer)[0], answer[: end + 1], best)

    @contextmanager
    def without_adapter(self, max_new_tokens: int) -> Iterator["Transcriber"]:
        """Give the block a transcriber of the base below the adapter of this one's model."""
        with self._model.disable_adapter():
            yield Transcriber(
                self._model, self._processor, self._family, max_new_tokens, graphed=False, no_repeat=self._no_repeat
            )

    def _own_processor(self) -> ProcessorMixin:
        """Return this thread's copy of the processor: two threads cannot use one tokenizer at once."""
        if threading.current_thread() is threading.main_thread():
            return self._processor
        if not hasattr(self._of_thread, "processor"):
            with self._copying:
                self._of_thread.processor = copy.deepcopy(self._processor)
        return cast(ProcessorMixin, self._of_thread.processor)

    def _generated(self, inputs: BatchFeature, confidences: TokenConfidences | None = None) -> torch.Tensor:
        """Return prompts and answers; ``confidences`` gets the log-probabilities of their tokens."""
        if self._graphed and self._graphed.supports():
            try:
                answers = self._graphed.generate(inputs, self._max_new_tokens)
                if confidences is not None:
                    confidences.take(self._graphed.logprobs(self._max_new_tokens))
                return answers
            except RecordingError as error:
                log.warning("generating step by step, several times slower: %s", error)
        output: torch.Tensor = self._generate(inputs, confidences)
        return output

    def _generate(self, inputs: BatchFeature, confidences: TokenConfidences | None = None, **options: Any) -> Any:
        rules: list[Any] = [] if confidences is None else [confidences]
        if self._no_repeat:
            rules.append(NoRepeatNgramsProcessor(self._no_repeat, inputs["input_ids"].shape[1]))
        return self._model.generate(
            **inputs,
            **options,
            logits_processor=LogitsProcessorList(rules),
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=self._max_new_tokens,
            eos_token_id=self.end_tokens,
            pad_token_id=self.pad_token,
        )

    @property
    def pad_token(self) -> int:
        """Fills up the rows of a batch that are shorter than its longest."""
        pad = self._processor.tokenizer.pad_token_id
        return self.end_tokens[0] if pad is None else int(pad)

    def _prediction(self, answer: list[int], logprobs: list[float]) -> Prediction:
        text, truncated = self._decoded(answer)
        end = self._end(answer)
        written = len(answer) if end is None else end
        found = mean_and_lowest(logprobs[: written + 1])  # with the end token
        lines = line_readings(text, map(self.text_of_token, answer[:written]), logprobs)
        return Prediction(text, truncated, mean_logprob=found[0] if found else None, lines=lines)

    def _end(self, answer: list[int]) -> int | None:
        return next((index for index, token in enumerate(answer) if token in self.end_tokens), None)

    def _decoded(self, answer: list[int]) -> tuple[str, bool]:
        end = self._end(answer)
        text = self._processor.tokenizer.decode(answer[:end], skip_special_tokens=True)
        return str(text), end is None


def _end_tokens(model: PreTrainedModel, processor: ProcessorMixin) -> list[int]:
    """Return the end tokens: the generation config's, and the tokenizer's, which ends every answer in training."""
    configured = model.generation_config.eos_token_id
    tokens = list(configured) if isinstance(configured, list) else [configured]
    tokens.append(processor.tokenizer.eos_token_id)
    return sorted({int(token) for token in tokens if token is not None})
