"""A held-out page with its reading, which the model card shows and MLflow takes as input example."""

import io
import logging
from dataclasses import dataclass

from PIL import Image

from components.shared.datasets.shard_reader import Sample

logger = logging.getLogger(__name__)

_MOST_BYTES = 1_000_000
_MOST_CHARACTERS = 2_000


@dataclass(frozen=True)
class ExamplePage:
    """A page's picture as a PNG file, and the text that the model read on it in the evaluation."""

    png: bytes
    text: str
    label: str


def example_page(page: Sample, prediction: str) -> ExamplePage | None:
    """Return the example; None, with a log line, if the picture is too large for a package's card."""
    png = _gray_png(page.image)
    if len(png) > _MOST_BYTES:
        logger.info("the card shows no example: page %s has %.1f MB as a PNG", page.key, len(png) / 1e6)
        return None
    return ExamplePage(png, _cut(prediction), _cut(page.text))


def _gray_png(image: Image.Image) -> bytes:
    """Return a picture in grey: the packaged script reads the same pixels from it."""
    stream = io.BytesIO()
    image.convert("L").save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
