"""Tesseract on the same pages, where it is installed: the baseline of classic OCR."""

import io
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from components.evaluate.readers.generation import Transcription
from components.evaluate.readers.pages import EvaluationPages
from components.shared.datasets.shard_reader import Sample
from components.shared.programs.cpu_threads import available_cpus
from components.shared.reading.transcriber import Prediction
from components.shared.telemetry.progress import ProgressReport

PAGE_SEGMENTATION_MODE = 6  # a single uniform block of text, which is what a rendered page is
_SECONDS_PER_PAGE = 120
_DEFAULT_LANGUAGE = "eng"
# ISO 639-1 -> the name of Tesseract's language data
_LANGUAGE_DATA = {
    "ar": "ara", "bg": "bul", "cs": "ces", "da": "dan", "de": "deu", "el": "ell", "en": "eng", "es": "spa",
    "fa": "fas", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun", "id": "ind", "it": "ita",
    "ja": "jpn", "ko": "kor", "nl": "nld", "no": "nor", "pl": "pol", "pt": "por", "ro": "ron", "ru": "rus",
    "sk": "slk", "sv": "swe", "th": "tha", "tr": "tur", "uk": "ukr", "vi": "vie", "zh": "chi_sim",
}  # fmt: skip


def tesseract_version() -> str | None:
    """Return the installed version, e.g. ``"tesseract 5.3.0"``; None where there is no such program."""
    if shutil.which("tesseract") is None:
        return None
    answer = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)
    return (answer.stdout or answer.stderr).splitlines()[0].strip()


def transcribe_with_tesseract(pages: EvaluationPages) -> Transcription:
    """Read every page with Tesseract, one process per page and core.

    A page whose language data are not installed is read with the English data, and the notes count it. A page that
    Tesseract fails on gets an empty prediction with the error.
    """
    installed = _installed_languages()
    missing: dict[str, int] = {}
    predictions: list[Prediction] = []
    started = time.perf_counter()
    with (
        ThreadPoolExecutor(available_cpus()) as pool,
        ProgressReport("transcribe with tesseract", len(pages)) as report,
    ):
        for page, prediction in pool.map(lambda position: _read(pages[position], installed), range(len(pages))):
            if _language(page) not in installed:
                name = str(page.metadata.get("lang"))
                missing[name] = missing.get(name, 0) + 1
            predictions.append(prediction)
            report.advance()
    notes = [f"{count} pages in {name!r} read with the English data" for name, count in sorted(missing.items())]
    return Transcription(predictions, seconds=time.perf_counter() - started, batch_size=1, notes=notes)


def _read(page: Sample, installed: set[str]) -> tuple[Sample, Prediction]:
    started = time.perf_counter()
    language = _language(page) if _language(page) in installed else _DEFAULT_LANGUAGE
    command = ["tesseract", "stdin", "stdout", "--psm", str(PAGE_SEGMENTATION_MODE), "-l", language]
    try:
        answer = subprocess.run(
            command,
            input=_png(page.image),
            capture_output=True,
            check=True,
            timeout=_SECONDS_PER_PAGE,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},  # pages already run in parallel
        )
        text = answer.stdout.decode("utf-8").replace("\f", "").strip()
        return page, Prediction(text, seconds=time.perf_counter() - started)
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode("utf-8", "replace").strip()
        return page, Prediction("", error=f"tesseract ended with {error.returncode}: {reason}"[:500])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return page, Prediction("", error=f"{type(error).__name__}: {error}"[:500])


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _language(page: Sample) -> str:
    language = str(page.metadata.get("lang") or "en").lower().partition("-")[0]
    return _LANGUAGE_DATA.get(language, language)


def _installed_languages() -> set[str]:
    answer = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True)
    return set(answer.stdout.split("\n")[1:]) - {""}
