"""Reads files with a service elsewhere, through its ``/v1/ocr``."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from components.serve.http.authentication import TOKEN_VARIABLE
from components.serve.offline.file_pages import FileEnd, FilePage
from components.shared.errors import UserError, first_line

_SECONDS_TO_CONNECT, _SECONDS_TO_READ = 10, 3600
_TRIES_AGAIN = 8  # after 429 and 503; the service's Retry-After is honoured, without one it is 1, 2, 4, ... 30 s
_LONGEST_WAIT = 60  # seconds, whatever Retry-After says
_ABOUT_THE_FILE = (400, 413, 429, 500, 504)  # the next file may be read; 429 also comes of more pages than may wait
_MEND_OF_MODEL = "GET /v1/models lists the versions that it has"
_MENDS = {
    401: f"set {TOKEN_VARIABLE} to a token of the service",
    403: f"set {TOKEN_VARIABLE} to a token of the service",
    404: "the address is that of the service alone, such as http://127.0.0.1:8000",
    413: "split the file, or have the service started with higher limits",
    429: "too many pages wait there: try again later, or read with fewer programs at once",
    503: "look at the service's log, or try again later",
    504: "the service is too busy or too slow: try again later, or raise its request_timeout_seconds",
}


class _RefusedFileError(UserError):
    """The service does not read this file; it may read the next one."""


def read_remotely(url: str, files: Sequence[Path], fields: dict[str, str]) -> Iterator[FilePage | FileEnd]:
    """Yield each file's pages as ``/v1/ocr`` returns them, and its end; the token is that of DEEPSYNTH_SERVE_TOKEN.

    A service whose queue is full (429) or that is down for the moment (503) is asked again after the time that it says.

    Args:
        fields: more fields of the request: ``model``, ``max_new_tokens``.

    Raises:
        UserError: the service cannot be reached, refuses the token or the model, or fails.
    """
    for file in files:
        problem: UserError | None = None
        try:
            for page in _pages(url, file, fields):
                yield FilePage(file, page["page"], page)
        except _RefusedFileError as error:
            problem = error
        yield FileEnd(file, problem)


def _pages(url: str, path: Path, fields: dict[str, str]) -> list[dict[str, Any]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _RefusedFileError(f"cannot be read ({error.strerror})", where=str(path)) from error
    answer = _answer(url, path.name, content, fields, os.environ.get(TOKEN_VARIABLE))
    mend = _MENDS.get(answer.status_code)
    try:
        found = answer.json()
        pages: list[dict[str, Any]] = found["pages"] if answer.ok else []
        said, field = ("", None) if answer.ok else (found["error"]["message"], found["error"].get("param"))
    except (requests.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"its answer is not that of this service (HTTP status {answer.status_code})",
            where=url,
            mend=mend or "correct the address",
        ) from error
    if not answer.ok:
        problem = f"the service does not read it ({answer.status_code}: {said})"
        if answer.status_code in _ABOUT_THE_FILE and field not in fields:
            raise _RefusedFileError(problem, where=str(path), mend=mend)
        raise UserError(problem, where=str(path), mend=_MEND_OF_MODEL if field == "model" else mend)
    return pages


def _answer(url: str, name: str, content: bytes, fields: dict[str, str], token: str | None) -> requests.Response:
    again = Retry(
        total=None,
        connect=0,
        read=0,
        redirect=0,
        other=0,
        status=_TRIES_AGAIN,
        status_forcelist=(429, 503),
        allowed_methods=("POST",),  # a page that is read twice is read alike
        backoff_factor=0.5,
        backoff_max=30,
        retry_after_max=_LONGEST_WAIT,
        respect_retry_after_header=True,
        raise_on_status=False,
        raise_on_redirect=False,
    )
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=again))
            return session.post(
                f"{url.rstrip('/')}/v1/ocr",
                files={"file": (name.encode("utf-8", "backslashreplace").decode("utf-8"), content)},
                data=fields,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=(_SECONDS_TO_CONNECT, _SECONDS_TO_READ),
                allow_redirects=False,  # the token goes to this address alone
            )
    except requests.RequestException as error:
        mend = "start it with deepsynth serve, or correct the address"
        raise UserError(f"the service cannot be reached ({first_line(error)})", where=url, mend=mend) from error
