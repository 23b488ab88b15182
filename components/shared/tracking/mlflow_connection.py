"""How this project connects to MLflow: the store's address, time limits, and which exceptions mean that it is down."""

import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from components.shared.errors import without_passwords
from components.shared.tracking import artifact_transfer

TRACKING_OFF = "off"
# With MLflow's own defaults a step waits for minutes when the server is gone. Artifacts have a longer timeout: a server
# answers only after it has passed a large file on to object storage.
_HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
# MLflow reports its use to its makers in a thread, which also changes os.environ while other threads read it.
_NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true"}
_CREDENTIALS = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
_CERTIFICATE = "MLFLOW_TRACKING_SERVER_CERT_PATH"

SECONDS_BETWEEN_ATTEMPTS = 60.0
_last_failures: dict[str, float] = {}
"""A store's address -> when it failed, by this process's clock."""

T = TypeVar("T")


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

    It gets artifacts from MLflow's server and not from S3 directly, and does not report its use to MLflow's makers,
    unless the environment says otherwise.

    Raises:
        ImportError: MLflow is not installed.
    """
    for name, value in (_HTTP_DEFAULTS | _NO_TELEMETRY | artifact_transfer.direct_access(False)).items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "urllib3.connectionpool"):  # the second logs each retry
        logging.getLogger(noisy).setLevel(logging.ERROR)
    file = store_file(uri)
    if file is None:
        return MlflowClient(uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(file.parent):
        return MlflowClient(uri)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time create the tables of a new store: MLflow's migrations fail when two run at once."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: as MLflow alone
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that MLflow's client and its stores raise when they are down or refuse.

    OSError covers requests' exceptions and a local store's disk, ImportError a missing driver of a database; boto3 is
    installed only where artifacts go to S3.
    """
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    errors: list[type[Exception]] = [MlflowException, OSError, SQLAlchemyError, CommandError, ImportError]
    try:
        errors.append(import_module("boto3.exceptions").Boto3Error)
        errors += [import_module("botocore.exceptions").BotoCoreError, import_module("botocore.exceptions").ClientError]
    except ImportError:
        pass
    return tuple(errors)


def transferred(action: Callable[[], T], what: str) -> T:
    """Return the result of ``action``, an upload or download of artifacts named ``what``, within its time limits.

    Raises:
        TransferTimeoutError: an OSError, hence one of ``store_errors``.
    """
    return artifact_transfer.transferred(action, what, _HTTP_DEFAULTS)


def first_failure(uri: str) -> bool:
    """Note that the store at ``uri`` failed, and return whether that is new in this process: it is said once."""
    new = uri not in _last_failures
    _last_failures[uri] = time.monotonic()
    return new


def failed_lately(uri: str) -> bool:
    """Return whether the store at ``uri`` failed in the last minute: a server that is gone costs seconds to ask."""
    return uri in _last_failures and time.monotonic() < _last_failures[uri] + SECONDS_BETWEEN_ATTEMPTS


def reason(error: Exception) -> str:
    """Return in one line why the store failed; for refused credentials also which variables hold them."""
    said = without_passwords(" ".join(str(error).split()))[:300]
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"the server's certificate is not trusted ({_CERTIFICATE} names its authority's file): {said}"
    return f"the server refuses the credentials ({_CREDENTIALS}): {said}" if refuses_credentials(error) else said


def refuses_credentials(error: Exception) -> bool:
    """Return whether the server answered that name and password, or token, are missing, wrong or not enough."""
    # For non-JSON answers, such as those of basic auth, MLflow's client gives the status only in the message.
    if getattr(error, "error_code", None) in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return True
    return re.search(r"\b(401|403)\b", " ".join(str(error).split())[:300]) is not None
