"""Greedy decoding in which each token is one replay of a CUDA graph.

With few active weights, most of the time per token is the host's: launching kernels. Here a step (forward pass,
choice of the token, bookkeeping) is recorded once per batch shape and then replayed, on a static cache. It is a
decoding loop for transformers' ``generate(custom_generate=...)``: transformers makes prompts, positions and masks.

On an H200 a 4-bit DeepSeek-OCR-2 wrote 864 tokens/s for 8 pages (2,108 for 32); ``generate`` wrote 276 (935). In 16
bits it wrote 1,449; ``generate`` wrote 436, and 926 with its static cache and ``torch.compile``. 64 tokens a page,
encoding of the pictures included (docs/benchmarks/training/run-7-steps-and-decoding.json).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import EosTokenCriteria, GenerationConfig, MaxLengthCriteria, StaticCache
from transformers.generation import GenerationMode

from components.shared.errors import first_line
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.programs.machine_failures import ran_out_of_device_memory
from components.shared.reading.token_confidences import chosen_logprobs

log = logging.getLogger(__name__)

_STEPS_BETWEEN_STOP_CHECKS = 16  # each check waits for the device; a finished batch runs at most this many idle steps
_CACHE_GRANULE = 256  # tokens; prompts of similar length then share one recorded step
_SPARE_CACHE = 1024  # tokens; a cache up to this much too long is reused instead of recording again
STEP_TENSORS = {"input_ids", "position_ids", "attention_mask"}
# transformers passes these to a step too, in shapes that differ between batches: the prompt's token types and its
# picture inputs. A decoding step that has the token's position does not need them.
PROMPT_TENSORS = {"mm_token_type_ids", "image_grid_thw", "pixel_values", "pixel_values_local", "images_spatial_crop"}
# Assisted generation chooses the same tokens as greedy search, only faster.
_GREEDY = (GenerationMode.GREEDY_SEARCH, GenerationMode.ASSISTED_GENERATION)
_KNOWN_CRITERIA = (MaxLengthCriteria, EosTokenCriteria)


class RecordingError(Exception):
    """The step cannot be recorded: because of the model or its settings, or because memory is too small."""


class GraphedDecoding:
    """Generates answers for batches of one model; keeps the recorded step for the next batch of the same shape.

    Args:
        model: a transformers model, or a PEFT model around one, in evaluation mode.
        end_tokens: each of them ends an answer; if empty, every answer has ``max_new_tokens``.
        pad_token: fills up answers that are shorter than the longest one of the batch.
        no_repeat: sequences of tokens that an answer may not repeat; None for greedy search alone.
    """

    def __init__(
        self, model: Any, end_tokens: list[int], pad_token: int, no_repeat: NoRepeatNgrams | None = None
    ) -> None:
        self._model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._end_tokens, self._pad_token, self._no_repeat = end_tokens, pad_token, no_repeat
        self._step: _RecordedStep | None = None
        self._cannot = False

    def supports(self) -> bool:
        """Return True if the device can record, the model's shapes are static, and no recording has failed yet."""
        text_config = self._model.config.get_text_config(decoder=True)
        return bool(
            not self._cannot
            and self._model.device.type == "cuda"
            and getattr(self._model, "_can_compile_fullgraph", False)
            and text_config._attn_implementation == "sdpa"
            and not getattr(text_config, "sliding_window", None)
        )

    @torch.inference_mode()
    def generate(self, inputs: Mapping[str, Any], max_new_tokens: int) -> torch.Tensor:
        """Return prompt and answer, shape (pages, prompt + max_new_tokens).

        After an error the recorded step is deleted, so that its memory can be used for a smaller batch.

        Raises:
            RecordingError: the model does work on the host that cannot be recorded, or its generation config asks for
                more than the most likely token of each step; ``supports`` is False from then on. Or the device's
                memory is too small for one page and its recording; the next page may fit.
        """
        try:
            return self._generated(inputs, max_new_tokens)
        except Exception as error:
            self._step = None
            self._cannot = self._cannot or isinstance(error, RecordingError)
            if len(inputs["input_ids"]) == 1 and ran_out_of_device_memory(error):
                raise RecordingError(f"out of memory with a single page ({first_line(error)})") from error
            raise

    def logprobs(self, max_new_tokens: int) -> torch.Tensor:
        """Return the log-probabilities of the last answers' tokens, shape (pages, max_new_tokens), float32.

        Those behind an answer's end mean nothing.
        """
        assert self._step is not None, "generate comes first"
        return self._step.logprobs[:, :max_new_tokens]

    def _generated(self, inputs: Mapping[str, Any], max_new_tokens: int) -> torch.Tensor:
        pages, prompt_tokens = inputs["input_ids"].shape
        needed = prompt_tokens + max_new_tokens
        if self._step is None or not self._step.fits(pages, needed):
            if asking := what_asks_the_host(self._model):
                raise RecordingError(f"{asking} ask the host in each step")
            self._step = None  # free its cache's memory before the next one is allocated
            cache_tokens = -(-needed // _CACHE_GRANULE) * _CACHE_GRANULE
            ends = (self._end_tokens, self._pad_token, self._no_repeat)
            self._step = _RecordedStep(self._model, *ends, pages, cache_tokens)
        self._step.cache.reset()
        # The class's method: Unsloth replaces the instance's by one that always uses its own cache.
        answers: torch.Tensor = type(self._model).generate(
            self._model,
            **inputs,
            past_key_values=self._step.cache,
            cache_implementation=None,
            custom_generate=self._step.decode,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._end_tokens or None,
            pad_token_id=self._pad_token,
        )
        return answers


class _RecordedStep:
    """One batch shape: its cache, the tensors that a step reads and writes, and the graph recorded on them."""

    def __init__(
        self,
        model: Any,
        end_tokens: list[int],
        pad_token: int,
        no_repeat: NoRepeatNgrams | None,
        pages: int,
        cache_tokens: int,
    ) -> None:
        self._model = model
        self._no_repeat = no_repeat
        self._pages = pages
        self._cache_tokens = cache_tokens
        self.cache = StaticCache(config=model.config.get_text_config(decoder=True), max_cache_len=cache_tokens)
        self._inputs: dict[str, Any] = {}
        # The graph records their addresses, so they must live as long as the graph.
        self._ends = torch.tensor(end_tokens, dtype=torch.long, device=model.device)
        self._pad = torch.tensor(pad_token, device=model.device)
        self._answer = torch.empty((pages, cache_tokens), dtype=torch.long, device=model.device)
        self.logprobs = torch.zeros((pages, cache_tokens), dtype=torch.float32, device=model.device)
        self._ended = torch.empty(pages, dtype=torch.bool, device=model.device)
        self._written = torch.empty(1, dtype=torch.long, device=model.device)
        self._filled = torch.empty(1, dtype=torch.long, device=model.device)
        self._replay: Callable[[], None] | None = None

    def fits(self, pages: int, tokens: int) -> bool:
        return pages == self._pages and tokens <= self._cache_tokens <= tokens + _SPARE_CACHE

    def decode(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """Greedy decoding loop for transformers' ``generate``.

        It does not change the experts' implementation: transformers would switch to ``batched_mm``, which copies each
        token's experts (4 bits, 32 pages: 1,467 tokens/s instead of 2,108).
        """
        refuse_more_than_greedy(generation_config, logits_processor, stopping_criteria)
        self._answer.fill_(self._pad)
        prompt = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        output = model(**prompt, return_dict=True)
        first = output.logits[:, -1].argmax(dim=-1)
        self.logprobs[:, 0] = chosen_logprobs(output.logits[:, -1], first)
        model_kwargs = model._update_model_kwargs_for_generation(output, model_kwargs)
        self._answer[:, 0] = first
        self._ended.copy_(torch.isin(first, self._ends))
        self._written.fill_(1)
        self._filled.fill_(input_ids.shape[1])
        longer = torch.cat([input_ids, first[:, None]], dim=1)
        self._take(model.prepare_inputs_for_generation(longer, next_sequence_length=1, **model_kwargs))
        self._run(generation_config.max_new_tokens - 1)
        return torch.cat([input_ids, self._answer[:, : generation_config.max_new_tokens]], dim=1)

    def _take(self, inputs: dict[str, Any]) -> None:
        """Store a step's inputs; if a step is recorded, copy them into the tensors that it was recorded on."""
        if not self._inputs:
            tensors = {name for name, value in inputs.items() if isinstance(value, torch.Tensor)}
            if odd := STEP_TENSORS - tensors | tensors - STEP_TENSORS - PROMPT_TENSORS:
                raise RecordingError(f"of {', '.join(sorted(odd))} it is not known what a step does with it")
            settings = {name: value for name, value in inputs.items() if name not in tensors}
            self._inputs = settings | {name: inputs[name].clone() for name in STEP_TENSORS}
        for name in STEP_TENSORS:
            self._inputs[name].copy_(inputs[name])

    def _advance(self) -> None:
        """Generate one token per page and set the inputs of the next step."""
        logits = self._model(**self._inputs, return_dict=True).logits[:, -1]
        allowed = self._no_repeat.scores(logits, self._answer, self._written) if self._no_repeat else logits
        token = torch.where(self._ended, self._pad, allowed.argmax(dim=-1))
        self._answer.index_copy_(1, self._written, token[:, None])
        self.logprobs.index_copy_(1, self._written, chosen_logprobs(logits, token)[:, None])
        self._ended.logical_or_(torch.isin(token, self._ends))
        self._written.add_(1)
        self._filled.add_(1)
        self._inputs["input_ids"].copy_(token[:, None])
        self._inputs["position_ids"].add_(1)
        self._inputs["attention_mask"].index_fill_(-1, self._filled, True)

    def _run(self, steps: int) -> None:
        for step in range(steps):
            if step % _STEPS_BETWEEN_STOP_CHECKS == 0 and bool(self._ended.all()):
                break
            if self._replay is None and step == 0:
                self._advance()  # libraries allocate their persistent buffers here, not while recording
                continue
            self._replay = self._replay or recorded(self._advance)
            self._replay()


def what_asks_the_host(model: Any) -> str | None:
    """Return which layers are known to make a recording fail; None if there are none.

    A trial would be harmful: if ``torch.cuda.graph`` cannot end a recording, memory stays locked in this process.
    """
    if any(type(module).__name__ == "Linear8bitLt" for module in model.modules()):
        return "8-bit layers"
    # In 16 bits the experts are one grouped matrix product.
    experts = (weight for name, weight in model.named_parameters() if ".experts." in name and weight.ndim == 3)
    if model.device.type == "cuda" and any(weight.dtype == torch.float32 for weight in experts):
        return "experts in float32"
    return None


def refuse_more_than_greedy(config: GenerationConfig, logits_processors: Any, stopping_criteria: Any) -> None:
    """Reject settings that make ``generate`` change logits or stop between steps: a recorded step does not do that."""
    wanted = [*logits_processors, *(each for each in stopping_criteria if not isinstance(each, _KNOWN_CRITERIA))]
    names = [type(each).__name__ for each in wanted]
    if (mode := config.get_generation_mode()) not in _GREEDY:
        names.append(mode.value)
    if names:
        raise RecordingError(f"the model's generation config asks for {', '.join(names)}")


def recorded(advance: Callable[[], None]) -> Callable[[], None]:
    if not torch.cuda.is_available():
        return advance
    graph = torch.cuda.CUDAGraph()
    # In a training, the thread that pins batches calls CUDA at the same time.
    recording = torch.cuda.graph(graph, capture_error_mode="thread_local")
    try:
        # If a recording cannot be ended, torch.cuda.graph leaves its own stream as the current one.
        with torch.cuda.stream(torch.cuda.current_stream()), recording:
            advance()
    except Exception as error:
        graph.reset()  # frees its private memory pool, which the error's traceback would keep alive
        if isinstance(error, RuntimeError) and not ran_out_of_device_memory(error):
            raise RecordingError(first_line(error)) from error
        raise
    return graph.replay
