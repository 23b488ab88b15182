"""Reads files with a service elsewhere, through its ``/v1/ocr``."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from components.serve.http.authentication import TOKEN_VARIABLE
from components.shared.errors import UserError, first_line

_SECONDS_TO_CONNECT, _SECONDS_TO_READ = 10, 3600
_TRIES_AGAIN = 8  # after 429 and 503; the service's Retry-After is honoured, without one it is 1, 2, 4, ... 30 s
_LONGEST_WAIT = 60  # seconds, whatever Retry-After says
_MENDS = {
    401: f"set {TOKEN_VARIABLE} to a token of the service",
    403: f"set {TOKEN_VARIABLE} to a token of the service",
    404: "the address is that of the service alone, such as http://127.0.0.1:8000",
    413: "split the file, or have the service started with higher limits",
    429: "too many pages wait there: try again later, or read with fewer programs at once",
    503: "look at the service's log, or try again later",
    504: "the service is too busy or too slow: try again later, or raise its request_timeout_seconds",
}


def read_remotely(url: str, path: Path, model: str | None) -> Iterator[dict[str, Any]]:
    """Yield the pages of a file as ``/v1/ocr`` returns them; the token is that of DEEPSYNTH_SERVE_TOKEN.

    A service whose queue is full (429) or that is down for the moment (503) is asked again after the time that it says.

    Raises:
        UserError: the file cannot be read, or the service cannot be reached, refuses the file or the token, or fails.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    answer = _answer(url, path.name, content, {"model": model} if model else {}, token)
    try:
        found = answer.json()
        pages = found["pages"] if answer.ok else []
        said = "" if answer.ok else found["error"]["message"]
    except (requests.JSONDecodeError, KeyError, TypeError) as error:
        mend = _MENDS.get(answer.status_code, "correct the address")
        raise UserError(
            f"its answer is not that of this service (HTTP status {answer.status_code})", where=url, mend=mend
        ) from error
    if not answer.ok:
        problem = f"the service does not read it ({answer.status_code}: {said})"
        raise UserError(problem, where=str(path), mend=_MENDS.get(answer.status_code))
    yield from pages


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
                files={"file": (name, content)},
                data=fields,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=(_SECONDS_TO_CONNECT, _SECONDS_TO_READ),
                allow_redirects=False,  # the token goes to this address alone
            )
    except requests.RequestException as error:
        mend = "start it with deepsynth serve, or correct the address"
        raise UserError(f"the service cannot be reached ({first_line(error)})", where=url, mend=mend) from error
