"""The files of a version in the MLflow model registry, downloaded and checked."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from components.shared.digests import sha256_folder
from components.shared.errors import UserError, without_passwords
from components.shared.tracking import mlflow_connection
from components.shared.tracking.model_registry import (
    FILES_TAG,
    MISSING,
    RegisteredAdapter,
    RegistryUnavailableError,
    one_line,
    registry,
)

logger = logging.getLogger(__name__)


class RegisteredFilesError(UserError):
    """A registered version's files are gone, or differ from those that were registered."""


def download(registered: RegisteredAdapter, folder: Path, *, uri: str | None = None) -> Path:
    """Download a version's files into ``folder``, which must not exist; return it.

    Raises:
        RegisteredFilesError: the files are gone, or their sha256 differs from the registered one.
        RegistryUnavailableError: the registry is down, refuses, or is switched off; or the files cannot be fetched
            from their store or written here (the error's cause says which).
    """
    folder = Path(folder).absolute()
    where = f"{registered} ({registered.source})"
    mend = "delete the version, or give its alias to another one"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as scratch:
        with registry(uri) as (client, place):
            arrived = _downloaded(client, place, registered, Path(scratch))
        # An object store has no folders: for files that are gone it returns an empty list, not an error.
        if not arrived or not arrived.is_dir() or not any(arrived.iterdir()):
            raise RegisteredFilesError("the version's files are gone", where=where, mend=mend)
        expected = registered.tags.get(FILES_TAG)
        if expected and sha256_folder(arrived) != expected:
            raise RegisteredFilesError("the files are not those that were registered", where=where, mend=mend)
        shutil.move(arrived, folder)
    return folder


def _downloaded(client: Any, uri: str, registered: RegisteredAdapter, scratch: Path) -> Path | None:
    """Return the folder with the downloaded files; None if their store says that they do not exist."""
    from mlflow.artifacts import download_artifacts

    source = client.get_model_version_download_uri(registered.name, str(registered.version))
    try:
        fetched = mlflow_connection.transferred(
            lambda: download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=uri),
            f"the download of {registered}",
        )
        return Path(fetched)
    except mlflow_connection.store_errors() as error:
        if _are_gone(source, uri):
            logger.warning("%s: %s", registered, one_line(error))
            return None
        reason = f"the version's files cannot be fetched ({one_line(error)})"
        where = f"{registered} ({without_passwords(source)})"
        mend = "make the store that holds them answer, then run this again"
        raise RegistryUnavailableError(reason, where=where, mend=mend) from error


def _are_gone(source: str, uri: str) -> bool:
    """Return whether the store says that the files do not exist; a failed download's error often does not tell."""
    from mlflow.artifacts import list_artifacts
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    try:
        if is_local_uri(source, is_tracking_or_registry_uri=False):
            Path(local_file_uri_to_path(source)).stat()  # MLflow would list a broken mount as an empty folder
            return False
        return not list_artifacts(artifact_uri=source, tracking_uri=uri)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except mlflow_connection.store_errors() as error:
        return getattr(error, "error_code", None) == MISSING
