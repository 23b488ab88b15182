"""Reads files with a service elsewhere, through its ``/v1/ocr``."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from components.serve.http.authentication import TOKEN_VARIABLE
from components.shared.errors import UserError, first_line

_SECONDS_TO_CONNECT, _SECONDS_TO_READ = 10, 3600


def read_remotely(url: str, path: Path, model: str | None) -> Iterator[dict[str, Any]]:
    """Yield the pages of a file as ``/v1/ocr`` returns them; the token is that of DEEPSYNTH_SERVE_TOKEN.

    Raises:
        UserError: the service cannot be reached, refuses the file or the token, or fails.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    try:
        with path.open("rb") as stream:
            answer = requests.post(
                f"{url.rstrip('/')}/v1/ocr",
                files={"file": (path.name, stream)},
                data={"model": model} if model else {},
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=(_SECONDS_TO_CONNECT, _SECONDS_TO_READ),
            )
        content = answer.json()
    except requests.JSONDecodeError as error:
        raise UserError(f"its answer is not that of this service ({answer.status_code})", where=url) from error
    except requests.RequestException as error:
        mend = "start it with deepsynth serve, or correct the address"
        raise UserError(f"the service cannot be reached ({first_line(error)})", where=url, mend=mend) from error
    if not answer.ok:
        said = content.get("error", {}).get("message", answer.reason)
        advice = f"set {TOKEN_VARIABLE} to a token of the service" if answer.status_code == 401 else None
        raise UserError(f"the service does not read it ({answer.status_code}: {said})", where=str(path), mend=advice)
    yield from content["pages"]
