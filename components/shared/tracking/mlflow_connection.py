"""How this project connects to MLflow: the store's address, time limits, and which exceptions mean that it is down."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.shared.errors import without_passwords

TRACKING_OFF = "off"
# With MLflow's own defaults a step waits for minutes when the server is gone. Artifacts have a longer timeout: a server
# answers only after it has passed a large file on to object storage.
_HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_CREDENTIALS = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_ARTIFACT_SECONDS = "300"


def store_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, or the address of ``mlflow.db`` in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(Path("mlflow.db"))


def sqlite_uri(file: Path) -> str:
    """Return the address of a SQLite file; ``?``, ``#`` and ``%`` in its path are escaped, as SQLAlchemy reads them.

    >>> sqlite_uri(Path("/runs/50% off?/mlflow.db"))
    'sqlite+pysqlite:////runs/50%25%20off%3F/mlflow.db'
    """
    path = str(file.absolute())
    # MLflow creates the parent folder of a sqlite:/// address, but without unescaping the address.
    scheme = "sqlite" if quote(path) == path else "sqlite+pysqlite"
    return f"{scheme}:///{quote(path)}"


def store_file(uri: str) -> Path | None:
    """Return the SQLite file that ``uri`` names; None where it names a server or a database in memory."""
    if not re.match(r"sqlite(\+\w+)?:///", uri):
        return None
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    return Path(database).absolute() if database and database != ":memory:" else None


def missing_store(uri: str) -> Path | None:
    """Return the SQLite file of ``uri`` if it does not exist: a reader would create an empty one."""
    file = store_file(uri)
    return file if file and not file.is_file() else None


def connect(uri: str) -> Any:
    """Return an ``MlflowClient`` that gives up after seconds, not minutes, and does not log each retry.

    Raises:
        ImportError: MLflow is not installed.
    """
    for name, value in _HTTP_DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    if file := store_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    for noisy in ("mlflow", "urllib3.connectionpool"):  # the second logs each retry
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return MlflowClient(uri)


def store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that MLflow's client and its stores raise when they are down or refuse.

    OSError covers requests' exceptions and a local store's disk; boto3 is installed only where artifacts go to S3.
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
    """Use a longer timeout within the block, unless the user set one."""
    before = os.environ.get(_TIMEOUT)
    if before == _HTTP_DEFAULTS[_TIMEOUT]:
        os.environ[_TIMEOUT] = _ARTIFACT_SECONDS
    try:
        yield
    finally:
        if before is not None:
            os.environ[_TIMEOUT] = before


def reason(error: Exception) -> str:
    """Return in one line why the store failed; for refused credentials also which variables hold them."""
    said = without_passwords(" ".join(str(error).split()))[:300]
    # For non-JSON answers, such as those of basic auth, MLflow's client gives the status only in the message.
    code = getattr(error, "error_code", None)
    if code not in ("UNAUTHENTICATED", "PERMISSION_DENIED") and not re.search(r"\b(401|403)\b", said):
        return said
    return f"the server refuses the credentials ({_CREDENTIALS}): {said}"
