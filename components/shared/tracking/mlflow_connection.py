"""How this project talks to MLflow: to which store, for how long it waits, and what says that the store is down."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

TRACKING_OFF = "off"
SQLITE = "sqlite:///"
# MLflow's own defaults keep a step waiting for minutes when the server is gone. Artifacts have their own timeout:
# a server that passes a large file on to object storage answers late.
_HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_CREDENTIALS = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_ARTIFACT_SECONDS = "300"


def store_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, or the SQLite file in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{Path.cwd() / 'mlflow.db'}"


def missing_store(uri: str) -> Path | None:
    """Return the SQLite file that ``uri`` names where it is not there; whoever only reads would make an empty one."""
    file = Path(uri.removeprefix(SQLITE))
    return file if uri.startswith(SQLITE) and not file.is_file() else None


def connect(uri: str) -> Any:
    """Return an ``MlflowClient`` that gives up after seconds, not minutes, and is quiet about each retry.

    Raises:
        ImportError: MLflow is not installed.
    """
    for name, value in _HTTP_DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "urllib3.connectionpool"):  # the second says each retry
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return MlflowClient(uri)


def store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions by which MLflow's client and its stores say that they are down or refuse.

    OSError covers requests' exceptions and a local store's disk; boto3 is there only where artifacts go to S3.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    errors: list[type[Exception]] = [MlflowException, OSError, SQLAlchemyError]
    try:
        errors.append(import_module("boto3.exceptions").Boto3Error)
        errors += [import_module("botocore.exceptions").BotoCoreError, import_module("botocore.exceptions").ClientError]
    except ImportError:
        pass
    return tuple(errors)


@contextmanager
def artifact_timeout() -> Iterator[None]:
    """Wait longer for an answer within the block, unless the user gave a time of their own."""
    before = os.environ.get(_TIMEOUT)
    if before == _HTTP_DEFAULTS[_TIMEOUT]:
        os.environ[_TIMEOUT] = _ARTIFACT_SECONDS
    try:
        yield
    finally:
        if before is not None:
            os.environ[_TIMEOUT] = before


def reason(error: Exception) -> str:
    """Return in one line why the store failed, and where it refused the credentials, which variables hold them."""
    said = " ".join(str(error).split())[:300]
    # Of an answer that is no JSON, as basic auth's, MLflow's client says the status in words only.
    code = getattr(error, "error_code", None)
    if code not in ("UNAUTHENTICATED", "PERMISSION_DENIED") and not re.search(r"\b(401|403)\b", said):
        return said
    return f"the server refuses the credentials ({_CREDENTIALS}): {said}"
