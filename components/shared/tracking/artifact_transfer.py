"""Uploads and downloads of artifacts: through MLflow's server, and within time limits.

MLflow 3.17 with S3 behind ``--serve-artifacts`` tells its clients to fetch files, and to send those of 500 MB and more,
straight from S3 by presigned addresses. A pod or a laptop that cannot reach S3 then waits for minutes and gets nothing.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_DIRECT_ACCESS = ("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD")
SECONDS_VARIABLE = "DEEPSYNTH_ARTIFACT_SECONDS"
"""names the time limit of a whole upload or download"""
_SECONDS = 1800.0
# A request for a file waits longer than others: the server answers only after it has passed the file on to S3.
_REQUEST_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "300", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}

T = TypeVar("T")


class TransferTimeoutError(OSError):
    """An upload or download took longer than its time limit."""


def direct_access(allowed: bool) -> dict[str, str]:
    """Return MLflow's variables that let clients use presigned addresses of S3, or that keep them off."""
    return dict.fromkeys(_DIRECT_ACCESS, str(allowed).lower())


def transferred(action: Callable[[], T], what: str, defaults: dict[str, str]) -> T:
    """Return the result of ``action``, an upload or download; it may take 30 minutes (``DEEPSYNTH_ARTIFACT_SECONDS``).

    Args:
        action: calls MLflow's client.
        what: the transfer in the error's message, e.g. ``"the download of report.json"``.
        defaults: the values of request limits that this project set, and that a transfer may therefore raise.

    Raises:
        TransferTimeoutError: the time is up. The request that is open ends later, by its own limit.
    """
    limit = float(os.environ.get(SECONDS_VARIABLE) or _SECONDS)
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name=what, daemon=True)
    with _request_limits(defaults):
        thread.start()
        thread.join(limit)
    if errors:
        raise errors[0]
    if not results:
        advice = f"see whether MLflow's server reaches its artifact store; {SECONDS_VARIABLE} sets the limit"
        raise TransferTimeoutError(f"{what} has not finished after {limit:g} s: {advice}")
    return results[0]


@contextmanager
def _request_limits(defaults: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _REQUEST_LIMITS}
    for name, value in _REQUEST_LIMITS.items():
        if before[name] in (None, defaults.get(name)):
            os.environ[name] = value
    try:
        yield
    finally:
        for name, earlier in before.items():
            if earlier is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = earlier
