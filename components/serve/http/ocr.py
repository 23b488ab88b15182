"""``POST /v1/ocr``: files as multipart form data, and what was read on their pages as JSON."""

import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from components.serve.adapters.calibrations import NONE, Calibrations
from components.serve.batching.page_job import PageReading
from components.serve.http.errors import ApiError
from components.serve.http.service import Service, Wish, all_readings
from components.serve.observability.request_spans import request_part
from components.serve.reading.version_reading import VersionReading
from components.shared.artifacts.confidence_calibration import ConfidenceCalibration
from components.shared.reading.line_readings import LineReading

_FIELDS = {"file", "model", "instruction", "max_new_tokens"}


class _InMemory(MultiPartParser):
    """Keeps uploads in memory, whose size the request's limit bounds: nothing of a request is written to a disk."""

    spool_max_size = 1 << 62


def ocr_routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/ocr")
    async def ocr(request: Request) -> dict[str, Any]:
        started = time.monotonic()
        client = service.access.client_of(request)
        names, contents, fields = await _form(request, service.config.max_pages_per_request)
        with request_part("open the uploads"):
            files = await service.opened(request, contents)
        pages = [page for file in files for page in file]
        length = _whole_number(fields.get("max_new_tokens"))
        wish = Wish(client, fields.get("model") or None, fields.get("instruction") or None, length)
        async with service.reading(request, pages, wish) as readings:  # as long as the answer asks for the version
            found = await all_readings(request, readings)
            places = [(name, number) for name, file in zip(names, files, strict=True) for number in _numbers(file)]
            return {
                "id": request.state.request_id,
                "model": request.state.model,
                "decoding": decoding_as_json(service.catalog.reading(request.state.model)),
                "pages": [
                    {"file": name, "page": number, **reading_as_json(reading, service.calibrations(reading, wish))}
                    for (name, number), reading in zip(places, found, strict=True)
                ],
                "seconds": round(time.monotonic() - started, 4),
            }

    return router


def reading_as_json(reading: PageReading, calibrations: Calibrations = NONE) -> dict[str, Any]:
    """Return a page's reading; log-probabilities are natural logarithms.

    With calibrations, the page and its lines also have the probability that their CER is at most ``cer_at_most``.
    """
    return {
        "text": reading.text,
        "confidence": _confidence(reading, calibrations.page),
        "lines": [{"text": line.text, **_confidence(line, calibrations.line)} for line in reading.lines],
        "truncated": reading.truncated,
        "loop": reading.loop,
        "tokens": reading.tokens,
        "seconds": {phase: round(seconds, 4) for phase, seconds in reading.seconds.items()},
    }


def _confidence(read: PageReading | LineReading, calibration: ConfidenceCalibration | None) -> dict[str, float]:
    found = {"mean_logprob": round(read.mean_logprob, 6), "min_logprob": round(read.min_logprob, 6)}
    if calibration is not None:
        probability = calibration.probability(read.mean_logprob)
        found |= {"probability": round(probability, 6), "cer_at_most": calibration.cer_at_most}
    return found


def decoding_as_json(reading: VersionReading) -> dict[str, Any]:
    """Return how a version's pages are decoded; a window of None is the whole answer."""
    rule = reading.no_repeat
    return {
        "no_repeat_ngram_size": rule.size if rule else None,
        "no_repeat_ngram_window": rule.window if rule else None,
    }


def _numbers(pages: list[Any]) -> range:
    return range(1, len(pages) + 1)


async def _form(request: Request, most_files: int) -> tuple[list[str], list[bytes], dict[str, str]]:
    """Return the files' names, their contents, and the other fields."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "send the files as multipart/form-data, each in a field 'file'", param="file")
    try:
        form = await _InMemory(request.headers, request.stream(), max_files=most_files, max_fields=8).parse()
    except MultiPartException as error:
        raise ApiError(400, f"not valid multipart/form-data: {error.message}") from error
    names, contents = list[str](), list[bytes]()
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if name not in _FIELDS:
            raise ApiError(400, f"unknown field; known are {', '.join(sorted(_FIELDS))}", param=name)
        if isinstance(value, UploadFile) == (name != "file"):
            raise ApiError(400, "'file' is a file, every other field is text", param=name)
        if isinstance(value, UploadFile):
            names.append(Path((value.filename or "").replace("\\", "/")).name)
            contents.append(await value.read())
        else:
            fields[name] = value
    await form.close()
    if not names:
        raise ApiError(400, "there is no file", param="file")
    return names, contents, fields


def _whole_number(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or not int(text[:9]):
        raise ApiError(400, "must be a whole number above 0", param="max_new_tokens")
    return int(text[:9])
