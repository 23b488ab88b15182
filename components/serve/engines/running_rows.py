"""Continuous greedy decoding: pages enter and leave a running batch, and one step serves all of them.

The rows of the batch share a static cache (transformers' ``StaticCache``) and write their next token into the same
column. A page that enters is prefilled alone, with a cache of its own, and its keys and values are copied so that they
end at that column; the attention mask hides what is left of them, and the positions are the page's own. When the
columns are used up, all rows move to the left. So a step depends on nothing but tensors at fixed addresses, and on a
GPU it is a CUDA graph, recorded once (``components/shared/reading/graphed_decoding.py``).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchFeature, StaticCache

from components.serve.engines.prefill import Prompted, prompt_rows
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.reading.graphed_decoding import RecordingError, recorded

logger = logging.getLogger(__name__)

_CACHE_GRANULE = 128  # tokens; a cache grows by whole granules, because each growth copies it and records again
# Without a fixed width a step attends to the columns in use alone: with 16 rows of about 220 tokens in a cache of 1,024
# columns it took 7 ms, and 23 ms with all columns. Views of them are made anew after so many columns.
_VIEW_GRANULE = 32
# More columns than the longest row needs: rows move left once per so many steps, not in each. A recorded step attends
# to all columns, so each one costs time.
_SPARE_COLUMNS = 128


@dataclass(frozen=True)
class Written:
    """What launched steps write for each row: on its way to the host, and there when ``ready`` has happened."""

    tokens: torch.Tensor
    logprobs: torch.Tensor
    ready: torch.cuda.Event | None

    def steps(self) -> list[list[tuple[int, float]]]:
        """Wait for the steps; return each row's tokens with their log-probabilities."""
        if self.ready is not None:
            self.ready.synchronize()  # other threads run meanwhile
        pairs = zip(self.tokens.tolist(), self.logprobs.tolist(), strict=True)
        return [list(zip(*row, strict=True)) for row in pairs]


class RunningRows:
    """The rows of one model's running batch; they are numbered without gaps, and the last fills a gap that opens.

    Args:
        model: a transformers model in evaluation mode.
        most_rows: rows at most.
        steps_at_once: tokens that one call of ``step`` writes for each row.
        fixed_width: compute always ``most_rows`` rows, as a recorded step must; otherwise only those in use.
        no_repeat: sequences of tokens that an answer may not repeat; None for greedy search alone.
    """

    def __init__(
        self,
        model: Any,
        most_rows: int,
        steps_at_once: int,
        fixed_width: bool,
        no_repeat: NoRepeatNgrams | None = None,
    ) -> None:
        self._model, self._no_repeat = model, no_repeat
        self._most_rows, self._fixed_width = most_rows, fixed_width
        self.steps_at_once = steps_at_once
        self._starts: list[int] = []  # the first column of each row
        self._column = 0  # where each row writes next
        self._columns = 0
        self._end = 0  # the columns that a step sees end here
        self._torn = False
        self._cache: Any = None
        self._all_rows: list[tuple[torch.Tensor, torch.Tensor]] = []  # each layer's keys and values
        self._whole: dict[str, torch.Tensor] = {}  # tensors of all rows
        self._inputs: dict[str, Any] = {}  # what a step takes: views of the rows in use
        self._replay: Callable[[], None] | None = None
        self._warm = False

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def free(self) -> int:
        """How many rows may enter."""
        return self._most_rows - len(self)

    @torch.inference_mode()
    def enter(self, inputs: BatchFeature, max_new_tokens: int) -> list[tuple[int, float]]:
        """Prefill pages and append their rows; return each one's first token and its log-probability.

        Raises:
            RecordingError: the model's step needs more than tokens, positions and mask.
        """
        prompted = prompt_rows(self._model, inputs, max_new_tokens)
        count, length = prompted.mask.shape
        self._make_columns(prompted, length + max_new_tokens + (1 + self.looks_ahead) * self.steps_at_once)
        if not len(self):
            self._column = length
        elif self._column < length:
            self._move(length - self._column)
        start, first = self._column - length, len(self)
        rows = slice(first, first + count)
        self._starts += [start] * count
        for layer, (keys, values) in enumerate(self._all_rows):
            new = prompted.cache.layers[layer]
            keys[rows, :, start : self._column] = new.keys
            values[rows, :, start : self._column] = new.values
        self._whole["attention_mask"][rows] = False
        self._whole["attention_mask"][rows, 0, 0, start : self._column] = prompted.mask.bool()
        self._whole["input_ids"][rows, 0] = prompted.tokens
        self._whole["position_ids"][..., rows, :] = prompted.positions
        self._whole["answers"][rows, 0] = prompted.tokens
        self._whole["answered"][rows] = 1
        self._use(len(self))
        return list(zip(prompted.tokens.tolist(), prompted.logprobs.tolist(), strict=True))

    @property
    def looks_ahead(self) -> int:
        """How many calls of ``launch`` shall follow before the tokens of one are looked at: 1 on a GPU, else 0.

        A row that has ended meanwhile writes tokens that nobody looks at.
        """
        return int(self._fixed_width and self._model.device.type == "cuda")

    @torch.inference_mode()
    def launch(self) -> Written:
        """Begin to write ``steps_at_once`` tokens for each row.

        Rows may enter and leave before anybody looks at the result: it is that of the rows at the time of this call.
        """
        if self._torn:
            raise RuntimeError("the rows' keys and values were moved in part")
        if self._column + self.steps_at_once > self._columns:
            self._move(-min(self._starts))
        elif self._column + self.steps_at_once > self._end:
            self._use(len(self))
        self._whole["written"].zero_()
        for _ in range(self.steps_at_once):
            self._next()
            self._column += 1  # at once: what a failed recording repeats writes behind it
        tokens, logprobs = (self._whole[name][: len(self)].clone() for name in ("tokens", "logprobs"))
        if tokens.device.type != "cuda":
            return Written(tokens, logprobs, None)
        tokens, logprobs = (part.to("cpu", non_blocking=True) for part in (tokens, logprobs))
        ready = torch.cuda.Event()
        ready.record()
        return Written(tokens, logprobs, ready)

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Free a row: the last row gets its number."""
        last = len(self) - 1
        if row != last:
            for keys, values in self._all_rows:
                keys[row] = keys[last]
                values[row] = values[last]
            for name in ("attention_mask", "input_ids", "answers", "answered"):
                self._whole[name][row] = self._whole[name][last]
            self._whole["position_ids"][..., row, :] = self._whole["position_ids"][..., last, :]
            self._starts[row] = self._starts[last]
        self._starts.pop()
        if not self._fixed_width:
            self._use(len(self))

    def _next(self) -> None:
        if not self._fixed_width or not self._warm:
            self._advance()  # libraries allocate their persistent buffers here, not while recording
            self._warm = True
            return
        try:
            self._replay = self._replay or recorded(self._advance)
        except RecordingError as error:
            logger.warning("decoding step by step, several times slower: %s", error)
            self._fixed_width = False
            self._use(len(self))
            self._advance()
            return
        self._replay()

    def _advance(self) -> None:
        whole = self._whole
        whole["attention_mask"].index_fill_(-1, whole["column"], True)
        logits = self._model(**self._inputs, return_dict=True).logits[:, -1].float()
        rows, allowed = len(logits), logits
        answers, answered = whole["answers"][:rows], whole["answered"][:rows]
        if self._no_repeat is not None:
            allowed = self._no_repeat.scores(logits, answers, answered)
        token = allowed.argmax(dim=-1, keepdim=True)
        whole["tokens"][:rows].index_copy_(1, whole["written"], token)
        whole["logprobs"][:rows].index_copy_(1, whole["written"], logits.gather(1, token) - logits.logsumexp(-1, True))
        answers.scatter_(1, answered, token)
        answered.add_(1).clamp_(max=answers.shape[1] - 1)  # rows that are not in use go on for ever
        whole["written"].add_(1)
        whole["column"].add_(1)
        self._inputs["input_ids"].copy_(token)
        self._inputs["position_ids"].add_(1)

    def _make_columns(self, prompted: Prompted, needed: int) -> None:
        """Make the cache long enough for a row of ``needed`` columns."""
        if needed <= self._columns:
            return
        self._replay, self._warm = None, False
        columns = -(-(needed + _SPARE_COLUMNS) // _CACHE_GRANULE) * _CACHE_GRANULE
        kept, kept_whole = self._all_rows, self._whole
        cache: Any = StaticCache(config=self._model.config.get_text_config(decoder=True), max_cache_len=columns)
        if len(cache.layers) != len(prompted.cache.layers) or any(layer.is_sliding for layer in cache.layers):
            raise RecordingError("its cache is not one of keys and values of all tokens")
        for layer, new in zip(cache.layers, prompted.cache.layers, strict=True):
            shape = (self._most_rows, -1, -1, -1)
            layer.lazy_initialization(new.keys[:1, :, :1].expand(shape), new.values[:1, :, :1].expand(shape))
        self._cache, self._columns = cache, columns
        self._all_rows = [(layer.keys, layer.values) for layer in cache.layers]
        self._make_tensors(prompted)
        if kept_whole:
            for (keys, values), (old_keys, old_values) in zip(self._all_rows, kept, strict=True):
                keys[:, :, : old_keys.shape[2]] = old_keys
                values[:, :, : old_values.shape[2]] = old_values
            for name in ("attention_mask", "answers"):
                self._whole[name][..., : kept_whole[name].shape[-1]] = kept_whole[name]
        self._inputs = {**prompted.settings, "past_key_values": cache}

    def _make_tensors(self, prompted: Prompted) -> None:
        rows, device = self._most_rows, prompted.tokens.device
        made = {
            "attention_mask": torch.zeros((rows, 1, 1, self._columns), dtype=torch.bool, device=device),
            "input_ids": torch.zeros((rows, 1), dtype=torch.long, device=device),
            "position_ids": prompted.positions.new_zeros((*prompted.positions.shape[:-2], rows, 1)),
            "tokens": torch.zeros((rows, self.steps_at_once), dtype=torch.long, device=device),
            "logprobs": torch.zeros((rows, self.steps_at_once), dtype=torch.float32, device=device),
            "written": torch.zeros(1, dtype=torch.long, device=device),
            "column": torch.zeros(1, dtype=torch.long, device=device),
            "answers": torch.zeros((rows, self._columns), dtype=torch.long, device=device),
            "answered": torch.zeros((rows, 1), dtype=torch.long, device=device),
        }
        for name in ("input_ids", "position_ids", "answered"):
            made[name] = self._whole.get(name, made[name])
        self._whole = made

    def _use(self, rows: int) -> None:
        """Point the step's inputs at the first ``rows`` rows, and at the column that is written next."""
        width = self._most_rows if self._fixed_width else rows
        first = 0 if self._fixed_width or not rows else min(self._starts)
        needed = -(-(self._column + self.steps_at_once) // _VIEW_GRANULE) * _VIEW_GRANULE
        self._end = self._columns if self._fixed_width else min(self._columns, needed)
        used = slice(first, self._end)
        for layer, (keys, values) in zip(self._cache.layers, self._all_rows, strict=True):
            layer.keys, layer.values = keys[:width, :, used], values[:width, :, used]
            layer.cumulative_length.fill_(self._column - first)
        self._whole["column"].fill_(self._column)
        self._inputs["attention_mask"] = self._whole["attention_mask"][:width, ..., used]
        self._inputs["input_ids"] = self._whole["input_ids"][:width]
        self._inputs["position_ids"] = self._whole["position_ids"][..., :width, :]

    def _move(self, columns: int) -> None:
        """Move all rows by so many columns, to the right or (negative) to the left."""
        self._torn = True  # a layer without memory for its copy would stay where it was
        for keys, values in self._all_rows:
            keys.copy_(keys.roll(columns, dims=2))
            values.copy_(values.roll(columns, dims=2))
        mask = self._whole["attention_mask"]
        mask.copy_(mask.roll(columns, dims=-1))
        self._column += columns
        self._starts = [start + columns for start in self._starts]
        mask[..., self._column :] = False
        self._torn = False
        self._use(len(self))
