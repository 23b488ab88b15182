"""RapidOCR (PP-OCR's networks on onnxruntime) on the same pages, where the package ``rapidocr`` is installed."""

import importlib.metadata
import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluate.readers.generation import Transcription
from components.evaluate.readers.pages import EvaluationPages
from components.shared.datasets.shard_reader import Sample
from components.shared.reading.transcriber import Prediction
from components.shared.telemetry.progress import ProgressReport


def rapidocr_version() -> str | None:
    """Return the installed version, e.g. ``"rapidocr 3.10.0"``; None where it or onnxruntime is missing."""
    if any(importlib.util.find_spec(name) is None for name in ("rapidocr", "onnxruntime")):
        return None
    return f"rapidocr {importlib.metadata.version('rapidocr')}"


def transcribe_with_rapidocr(pages: EvaluationPages) -> Transcription:
    """Read every page with the networks that the package brings along (Chinese, Latin and Japanese script).

    What the engine finds side by side is one line, with spaces between. A page on which it fails gets an empty
    prediction with its error.
    """
    from rapidocr import RapidOCR

    started = time.perf_counter()
    engine = RapidOCR(params={"Global.log_level": "error"})
    predictions: list[Prediction] = []
    with ProgressReport("transcribe with rapidocr", len(pages)) as report:
        for position in range(len(pages)):
            predictions.append(_read(engine, pages[position]))
            report.advance()
    return Transcription(predictions, seconds=time.perf_counter() - started, batch_size=1)


def _read(engine: Any, page: Sample) -> Prediction:
    started = time.perf_counter()
    try:
        found = engine(np.asarray(page.image)[:, :, ::-1])  # it wants BGR
        text = "" if found.txts is None else _lines(found.txts, found.boxes)
    except Exception as error:  # whatever it is, it is this page's score: an empty prediction with its error
        return Prediction("", error=f"{type(error).__name__}: {error}"[:500])
    return Prediction(text, seconds=time.perf_counter() - started)


def _lines(texts: Sequence[str], boxes: Sequence[NDArray[np.float32]]) -> str:
    """Join texts in the engine's order, with a space where a box's middle is beside the box before it.

    Boxes are four corners (x, y) each, in pixels.
    """
    joined = ""
    top = bottom = -1.0
    for text, box in zip(texts, boxes, strict=True):
        heights = box[:, 1]
        beside = top < float(heights.mean()) < bottom
        joined += (" " if beside else "\n" if joined else "") + text
        top, bottom = float(heights.min()), float(heights.max())
    return joined
