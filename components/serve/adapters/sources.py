"""Where a version's files are: a folder, a package's zip, or the MLflow registry."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from components.serve.config import ServeConfig
from components.shared.artifacts.package_files import PACKAGE_SETTINGS, json_mapping, unpack
from components.shared.artifacts.training_record import training_record
from components.shared.digests import sha256_file, sha256_of_files
from components.shared.errors import UserError
from components.shared.tracking.model_registry import CHALLENGER, CHAMPION, RegisteredAdapter, versions_of
from components.shared.tracking.registered_files import download

_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt"}
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_EXPORT_AGAIN = "give a package of the export step"


@dataclass(frozen=True)
class ModelFiles:
    """A version that can be loaded.

    Attributes:
        name: under which clients ask for it.
        folder: the adapter's or the whole model's files; None: the base alone.
        base_model, revision: the base that the files name; None if they name none.
    """

    name: str
    folder: Path | None
    base_model: str | None = None
    revision: str | None = None


def fetched(source: str, scratch: Path) -> ModelFiles:
    """Return the files of ``source``; what has to be downloaded or unpacked goes into the folder ``scratch``.

    Args:
        source: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, a package's zip, the folder of an adapter, a package
            or a model, a hub id, or ``tiny-base``.

    Raises:
        UserError: there is no such version or folder, the registry is down, or the zip is not a package.
    """
    if source.startswith("models:/"):
        return fetched_version(registered_version(source), scratch)
    path = Path(source).expanduser()
    if path.is_file():
        return _of_folder(path.stem, _unpacked(path, scratch))
    if path.is_dir() and any((path / name).is_file() for name in ("adapter_config.json", PACKAGE_SETTINGS)):
        return _of_folder(_name_of(path.resolve()), path.resolve())
    if not path.exists() and path.parent != Path() and path.parent.is_dir():  # else it may be a hub id
        raise UserError("no such file or folder", where=source, mend="deepsynth list shows the runs")
    return ModelFiles(path.resolve().name if path.is_dir() else source, None, base_model=source)


def followed_name(source: str) -> str | None:
    """Return the registered model whose aliases are followed if the service reads with ``source``; None: none is."""
    match = _REGISTERED.fullmatch(source)
    return match["name"] if match and match["alias"] in (CHAMPION, CHALLENGER) else None


def with_base(config: ServeConfig, files: ModelFiles) -> ServeConfig:
    """Return the config with the base that ``files`` name, where it names none.

    Raises:
        UserError: neither names one.
    """
    if config.base_model is not None:
        return config
    if files.base_model is None:
        raise UserError("its files name no base model", where=files.name, mend="give base_model")
    return config.model_copy(update={"base_model": files.base_model, "revision": config.revision or files.revision})


def registered_version(source: str, *, uri: str | None = None) -> RegisteredAdapter:
    """Return the version that ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` names now.

    Raises:
        UserError: there is none, or the registry is down.
    """
    match = _REGISTERED.fullmatch(source)
    if match is None:
        raise UserError(
            "not a registered model's address", where=source, mend="write models:/NAME@champion or models:/NAME/3"
        )
    for version in versions_of(match["name"], uri=uri):
        if match["alias"] in version.aliases or str(version.version) == match["version"]:
            return version
    raise UserError("the registry has no such version", where=source, mend="deepsynth adapters list shows them")


def fetched_version(version: RegisteredAdapter, scratch: Path, *, uri: str | None = None) -> ModelFiles:
    """Download a registered version, unless it is in ``scratch`` already.

    Raises:
        UserError: its files are gone or changed, or their store is down.
    """
    name = version_name(version)
    folder = scratch / name
    if not folder.is_dir():
        download(version, folder, uri=uri)
    return _of_folder(name, folder)


def version_name(version: RegisteredAdapter) -> str:
    """Return the name under which clients ask for a registered version."""
    return f"{version.name}-{version.version}"


def _name_of(folder: Path) -> str:
    """Return a folder's name; a run's folder has the run's name, and its adapter's folder is called ``adapter``."""
    return folder.parent.name if folder.name in ("adapter", "package") and folder.parent.name else folder.name


def _of_folder(name: str, folder: Path) -> ModelFiles:
    training = training_record(folder)
    if training is not None:
        return ModelFiles(name, folder, training.base_model, training.config.get("revision"))
    settings = folder / PACKAGE_SETTINGS
    if not settings.is_file():
        return ModelFiles(name, folder)
    content = json_mapping(settings, _EXPORT_AGAIN)
    base, revision = content.get("base_model"), content.get("revision")
    if not isinstance(base, str | None) or not isinstance(revision, str | None):
        raise UserError("base_model and revision are no names", where=str(settings), mend=_EXPORT_AGAIN)
    if not content.get("base_in_package"):
        return ModelFiles(name, folder, base, revision)
    if not base or not (folder / base).resolve().is_relative_to(folder.resolve()) or not (folder / base).is_dir():
        raise UserError(f"the base {base!r} is no folder in the package", where=str(settings), mend=_EXPORT_AGAIN)
    return ModelFiles(name, folder, str(folder / base))


def content_digest(folder: Path) -> str:
    """Return the SHA-256 over what a version is made of: weights, settings, tokenizer."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    return sha256_of_files({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


def _unpacked(archive: Path, scratch: Path) -> Path:
    """Unpack a package; return the folder with its model.

    Raises:
        UserError: it is not a package's zip; see ``unpack``.
    """
    target = scratch / f"{archive.stem}-{sha256_file(archive)}"  # two runs' zips may have one name
    if not target.is_dir():
        partial = Path(tempfile.mkdtemp(dir=scratch, prefix=".partial-"))
        try:
            unpack(archive, partial)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    if not (target / PACKAGE_SETTINGS).is_file():
        raise UserError(f"has no {PACKAGE_SETTINGS}", where=str(archive), mend=_EXPORT_AGAIN)
    return target
