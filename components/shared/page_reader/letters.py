"""Warns of pages whose letters the model sees much smaller or larger than those that it was trained on."""

import math
from collections.abc import Callable, Mapping
from typing import Any

LetterHeight = Callable[[Any], float | None]
"""Estimates how high a picture's letters are, in pixels; None if it has too little text."""

FAR = 2.0
"""A page is far from the training if its letters are this many times as high as the highest there, or as low. On a page
scaled four times, a model trained on one size read nothing."""


def seen_scale(size: tuple[int, int], inputs: Mapping[str, Any]) -> float:
    """Return by how much a processor scaled a page: the root of pixels after it by pixels before it.

    A processor that takes pages as they are gives about 1 for every page; one that shrinks them to one size gives less
    for larger pages, whose letters the model then sees as it sees those of smaller pages.

    Args:
        size: the page's width and height in pixels.
        inputs: what the processor returned for this page alone.
    """
    names = ("pixel_values", "flattened_patches")
    values = sum(part.numel() for name, part in inputs.items() if name.startswith(names) and hasattr(part, "numel"))
    return math.sqrt(values / 3 / (size[0] * size[1]))  # 3 colours


def warning_about(
    image: Any, inputs: Mapping[str, Any], trained: Mapping[str, float] | None, height: LetterHeight
) -> str | None:
    """Return what to say about a page's letters; None if they are like the training's, or if that is not known.

    Args:
        trained: ``low``, ``median`` and ``high`` of the training pages' letters as the model saw them, in pixels.
    """
    pixels = height(image) if trained else None
    if not trained or pixels is None:
        return None
    seen = pixels * seen_scale(image.size, inputs)
    if trained["low"] / FAR <= seen <= trained["high"] * FAR:
        return None
    ratio = seen / trained["median"]
    relation = f"{ratio:.1f} times as high as" if ratio > 1 else f"{ratio:.2f} times the height of"
    return (
        f"letters of about {pixels:.0f} pixels, for the model {relation} those that it was trained on:"
        f" the text may be wrong or missing; try the picture scaled by {1 / ratio:.2g}"
    )
