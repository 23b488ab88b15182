"""Batches pages of similar length: rows are padded to the longest of their batch, and padding is wasted work.

transformers' ``group_by_length`` needs a tokenised dataset and draws its order from the global random state, so a
resumed epoch would get another order. The order here depends only on the seed and the epoch.
"""

import io
from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.page_reader.pictures import FORMATS
from components.train.batches.collator import PageCollator

_MEASURED_PAGES = 32


def page_lengths(dataset: ShardDataset, collator: PageCollator) -> list[int]:
    """Return an estimate of each page's tokens, from the bytes of its text and the area of its picture.

    The tokens per byte and per pixel are measured on the first pages with the model's own processor. The arithmetic
    uses integers, so that the order is the same on every machine.
    """
    measured = [dataset[index] for index in range(min(_MEASURED_PAGES, len(dataset)))]
    tokens = sum(int(collator([page])["attention_mask"].sum()) for page in measured)
    in_texts = sum(
        len(collator.processor.tokenizer(page.text, add_special_tokens=False).input_ids) for page in measured
    )
    sizes = [
        _bytes_and_pixels(page.text, page.image_bytes) for page in (dataset[index] for index in range(len(dataset)))
    ]
    text_bytes, pixels = (sum(column) for column in zip(*sizes[: len(measured)], strict=True))
    in_pictures = max(0, tokens - in_texts)
    return [text * in_texts // max(1, text_bytes) + area * in_pictures // max(1, pixels) for text, area in sizes]


def _bytes_and_pixels(text: str, image_bytes: bytes) -> tuple[int, int]:
    try:
        width, height = Image.open(io.BytesIO(image_bytes), formats=FORMATS).size  # reads the header only
    except OSError:
        width = height = 0  # the collator reports the error when it reads the page
    return len(text.encode()), width * height


class LengthGroupedPages(Sampler[int]):
    """A random order, new in each epoch, in which every run of ``batch_size`` pages has similar lengths."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = list(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self._epoch = epoch
