"""The classic OCR engines that are installed; each is a row of the report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from components.evaluate.readers.classic_ocr import tesseract_version, transcribe_with_tesseract
from components.evaluate.readers.generation import Transcription
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.readers.rapid_ocr import rapidocr_version, transcribe_with_rapidocr
from components.shared.artifacts.evaluation_report import RowName


@dataclass(frozen=True)
class ClassicEngine:
    """An engine: the name of its row, its version (None: not installed), and how it reads pages."""

    name: RowName
    version: Callable[[], str | None]
    transcribe: Callable[[EvaluationPages], Transcription]


_ENGINES = (
    ClassicEngine("tesseract", tesseract_version, transcribe_with_tesseract),
    ClassicEngine("rapidocr", rapidocr_version, transcribe_with_rapidocr),
)


def installed_engines() -> list[ClassicEngine]:
    """Return the engines that are installed."""
    return [engine for engine in _ENGINES if engine.version() is not None]


def engine_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the engines among ``names``."""
    versions = {engine.name: engine.version() for engine in _ENGINES if engine.name in set(names)}
    return {name: version for name, version in versions.items() if version is not None}
