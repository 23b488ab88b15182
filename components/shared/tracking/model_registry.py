"""Adapters in the MLflow model registry: versions of a name, with the aliases ``champion`` and ``challenger``.

The registry is at ``MLFLOW_REGISTRY_URI`` if set, otherwise at ``MLFLOW_TRACKING_URI`` (``off``: no registry). Aliases
are used and not stages: an alias names one version at a time and moves in one call.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from components.shared.digests import sha256_folder
from components.shared.errors import UserError, without_passwords
from components.shared.tracking import mlflow_connection, tracking_runs

logger = logging.getLogger(__name__)

CHAMPION = "champion"
CHALLENGER = "challenger"
FILES_TAG = "deepsynth.files_sha256"
"""``sha256_folder`` of a version's files at registration."""
SOURCE_DIGEST_TAG = "source_digest"
"""The documents that a version was trained on: ``sources_digest`` of the prepare step."""
_ARTIFACT_PATH = "adapter"
_LONGEST_TAG = 5000
MISSING = "RESOURCE_DOES_NOT_EXIST"
_EXPERIMENT = "deepsynth-adapters"
_VARIABLE = "MLFLOW_TRACKING_URI"

T = TypeVar("T")
Tags = Mapping[str, str | int | float | bool | None]


class RegistryUnavailableError(UserError):
    """The registry, or the store of its files, is down, refuses, or is switched off: its content is unknown."""


@dataclass(frozen=True)
class RegisteredAdapter:
    """One version of a registered name.

    Attributes:
        run_id: the MLflow run that holds the files; None if the version was registered in another way.
        source: the registry's address of the files.
        created: milliseconds since 1970 (UTC).
    """

    name: str
    version: int
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    source: str = ""
    created: int = 0

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def champion_of(name: str, *, uri: str | None = None) -> RegisteredAdapter | None:
    """Return the version with the alias ``champion``; None if the name or the alias does not exist (yet).

    Raises:
        RegistryUnavailableError: the registry is down or switched off. This must not be None: without a champion the
            gate compares with the base and could promote an adapter that reads worse than the champion.
    """
    champions = [version for version in versions_of(name, uri=uri) if CHAMPION in version.aliases]
    return champions[0] if champions else None


def versions_of(name: str, *, uri: str | None = None) -> list[RegisteredAdapter]:
    """Return all versions of ``name``, the newest first; an empty list if nothing is registered under it.

    Raises:
        RegistryUnavailableError: the registry is down or switched off.
        UserError: ``name`` is not a valid name.
    """
    _check_name(name)
    with registry(uri) as (client, _):
        model = _none_if_missing(lambda: client.get_registered_model(name))
        if model is None:
            return []
        found = _all_pages(lambda token: client.search_model_versions(f"name='{name}'", page_token=token))
    return sorted((_adapter(version, model.aliases) for version in found), key=lambda one: -one.version)


def names(*, uri: str | None = None) -> list[str]:
    """Return the registered names, sorted.

    Raises:
        RegistryUnavailableError: the registry is down or switched off.
    """
    with registry(uri) as (client, _):
        found = _all_pages(lambda token: client.search_registered_models(page_token=token))
        return sorted(model.name for model in found)


def register(
    folder: Path, name: str, tags: Tags, *, description: str | None = None, uri: str | None = None
) -> RegisteredAdapter:
    """Upload ``folder`` (an adapter's files) as the next version of ``name``; the first version creates the name.

    The files go to an MLflow run of their own with the same tags: a pipeline's runs may be deleted, and the files of a
    version must stay. Tags that are None are left out. ``description`` is Markdown of at most 5,000 characters.

    Raises:
        RegistryUnavailableError: the registry is down, refuses, or is switched off; ``folder`` is unchanged.
        UserError: ``folder`` does not exist or is empty, or ``name`` is not a valid name.
    """
    _check_name(name)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise UserError("no such folder, or nothing is in it", where=str(folder), mend="name an adapter's folder")
    texts = _texts(tags)
    texts[FILES_TAG] = sha256_folder(folder)
    with registry(uri) as (client, place):
        experiment = tracking_runs.experiment(client, place, _EXPERIMENT)
        run = client.create_run(experiment, run_name=name, tags={"deepsynth.step": "register", **texts}).info
        status = "FAILED"
        try:
            mlflow_connection.transferred(
                lambda: client.log_artifacts(run.run_id, str(folder), artifact_path=_ARTIFACT_PATH),
                f"the upload of {folder.name}",
            )
            _make_name(client, name)
            source = f"{run.artifact_uri}/{_ARTIFACT_PATH}"
            about = {"run_id": run.run_id, "tags": texts, "description": description}
            version = client.create_model_version(name, source=source, **about)
            client.update_run(run.run_id, name=f"{name} {version.version}")
            status = "FINISHED"
        finally:
            client.set_terminated(run.run_id, status=status)
    logger.info("registered %s version %s", name, version.version)
    return _adapter(version, {})


def set_alias(registered: RegisteredAdapter, alias: str, *, uri: str | None = None) -> None:
    """Give ``registered`` the alias; the version that had it loses it.

    Raises:
        RegistryUnavailableError: the registry is down, refuses, or is switched off.
    """
    with registry(uri) as (client, _):
        client.set_registered_model_alias(registered.name, alias, str(registered.version))


def delete_version(registered: RegisteredAdapter, *, uri: str | None = None) -> None:
    """Delete a version, and the MLflow run that holds its files if ``register`` created it.

    Aliases that point at it are deleted too; an alias that has moved to another version stays there. MLflow keeps a
    deleted run's files until ``mlflow gc``.

    Raises:
        RegistryUnavailableError: the registry is down, refuses, or is switched off.
    """
    with registry(uri) as (client, _):
        client.delete_model_version(registered.name, str(registered.version))
        if registered.run_id and FILES_TAG in registered.tags:
            _none_if_missing(lambda: client.delete_run(registered.run_id))


def set_tags(registered: RegisteredAdapter, tags: Mapping[str, str | int | float | bool | None]) -> None:
    """Set tags on a version; those that are None are left as they are.

    Raises:
        RegistryUnavailableError: the registry is down, refuses, or is switched off.
    """
    with registry(None) as (client, _):
        for key, value in _texts(tags).items():
            client.set_model_version_tag(registered.name, str(registered.version), key, value)


@contextmanager
def registry(uri: str | None) -> Iterator[tuple[Any, str]]:
    """Yield a client and its store's address; errors of the store in the block become RegistryUnavailableError."""
    place = uri or mlflow_connection.store_uri()
    if place.lower() == mlflow_connection.TRACKING_OFF:
        mend = "set it to the server's address, or name no registered model"
        raise RegistryUnavailableError("tracking is off, so there is no registry", where=_VARIABLE, mend=mend)
    errors = mlflow_connection.store_errors()
    try:
        yield mlflow_connection.connect(place), place
    except errors as error:
        reason = f"the MLflow registry cannot be used ({mlflow_connection.reason(error)})"
        refused = mlflow_connection.refuses_credentials(error)
        mend = "set those of an account that may do this" if refused else f"start it, or correct {_VARIABLE}"
        raise RegistryUnavailableError(reason, where=without_passwords(place), mend=mend) from error


def _texts(tags: Mapping[str, str | int | float | bool | None]) -> dict[str, str]:
    return {key: str(value)[:_LONGEST_TAG] for key, value in tags.items() if value is not None}


def _make_name(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    if _none_if_missing(lambda: client.get_registered_model(name)):
        return
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process created it in the meantime
            raise


def _none_if_missing(ask: Callable[[], T]) -> T | None:
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None


def _all_pages(ask: Callable[[str | None], Any]) -> list[Any]:
    page = ask(None)
    found = list(page)
    while page.token:
        page = ask(page.token)
        found += page
    return found


def _adapter(version: Any, aliases: Mapping[str, Any]) -> RegisteredAdapter:
    return RegisteredAdapter(
        name=version.name,
        version=int(version.version),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(version.version))),
        tags=dict(version.tags),
        run_id=version.run_id or None,
        source=version.source,
        created=int(version.creation_timestamp),
    )


def _check_name(name: str) -> None:
    if not name or re.search(r"[/:'\"`\s]", name):
        mend = "use letters, digits, dots, - and _"
        raise UserError("not a registered model's name", where=repr(name), mend=mend)


def one_line(error: Exception) -> str:
    return without_passwords(" ".join(str(error).split()))[:300]
