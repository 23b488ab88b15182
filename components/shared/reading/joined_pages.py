"""Pages that were prepared one by one, as one batch: as if the processor had got them together.

A service prepares each page when it comes and does not know with which others it will be read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import BatchFeature

from components.shared.reading.image_text_inputs import IGNORED_LABEL, OVER_TOKENS

Kind = tuple[tuple[str, Any], ...]


def kind_of(inputs: Mapping[str, Any]) -> Kind:
    """Return what pages must have in common to be joined: the tensors' names, types, and sizes of a row.

    A page whose tensors are not known to be joinable has a kind of its own.
    """
    tokens = inputs["input_ids"].shape
    found: list[tuple[str, Any]] = []
    for name, value in sorted(inputs.items()):
        if not isinstance(value, torch.Tensor) or not value.ndim:
            found.append((name, id(inputs)))
        elif name in OVER_TOKENS:
            found.append((name, (value.dtype, value.shape[2:])))
        elif value.shape[:2] == tokens:  # perhaps over tokens too, and then it is not known how it is padded
            found.append((name, id(inputs)))
        else:
            found.append((name, (value.dtype, value.shape[1:])))
    return tuple(found)


def joined(pages: Sequence[Mapping[str, Any]], pad_token: int) -> BatchFeature:
    """Return left-padded tensors of all pages, which are of one kind (``kind_of``); shape (pages, tokens), ...

    Args:
        pages: for each page, or for a few, what the processor made; on one device.
        pad_token: fills up the prompts that are shorter than the longest.
    """
    longest = max(page["input_ids"].shape[1] for page in pages)
    fillers = {"input_ids": pad_token, "labels": IGNORED_LABEL}
    found: dict[str, Any] = {}
    for name in pages[0]:
        values = [page[name] for page in pages]
        if name in OVER_TOKENS:
            values = [_left_padded(value, longest, fillers.get(name, 0)) for value in values]
        found[name] = torch.cat(values) if len(values) > 1 else values[0]
    return BatchFeature(found)


def _left_padded(values: torch.Tensor, length: int, filler: int) -> torch.Tensor:
    if values.shape[1] == length:
        return values
    missing = values.new_full((values.shape[0], length - values.shape[1], *values.shape[2:]), filler)
    return torch.cat([missing, values], dim=1)
