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
    """Read every page with the package's own networks (Chinese, Latin and Japanese script).

    Boxes side by side form one line, joined by spaces. A page that the engine fails on gets an empty prediction with
    the error.
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
        found = engine(np.asarray(page.image)[:, :, ::-1])  # the engine expects BGR
        text = "" if found.txts is None else _lines(found.txts, found.boxes)
    except Exception as error:  # any error becomes this page's result: an empty prediction with the error
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
