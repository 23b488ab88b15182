"""Which folders of the machine a step's container gets, each under its own path.

The runs' folder, the MLflow store, caches and checkpoints are writable; paths in the configuration are read-only.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from huggingface_hub import constants

from components.shared.errors import UserError
from components.shared.tracking.mlflow_connection import store_file
from pipelines.task_side.persistent_folders import CHECKPOINTS_VARIABLE

_WRITTEN_BY_TRAIN = ("checkpoint_dir", "compile_cache_dir", "vision_features_dir")
_PREFIXES = ("images:",)
# A mount on or above one of these would hide the image's programs or its temporary folder.
_OF_THE_IMAGE = (
    *("/opt/deepsynth", "/opt/deepsynth-code", "/usr/bin", "/usr/lib", "/usr/local/bin", "/usr/local/lib"),
    *("/bin", "/lib", "/lib64", "/etc", "/tmp", "/proc", "/sys", "/dev", "/var", "/run"),
)


def with_home_expanded(value: Any) -> Any:
    """Return the configuration with each leading ~ expanded: a container has another HOME."""
    if isinstance(value, dict):
        return {key: with_home_expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_home_expanded(inner) for inner in value]
    if isinstance(value, str):
        prefix, path = _split(value)
        if path.startswith("~"):
            return prefix + str(Path(path).expanduser())
    return value


def mounts(
    config: Mapping[str, Any], runs_dir: Path, tracking_uri: str, environment: Mapping[str, str]
) -> dict[str, bool]:
    """Return path -> whether it is read-only, for all paths that the steps need; create the folders that they write.

    Args:
        config: the pipeline's configuration as JSON values, without ~.
        runs_dir: the folder of all runs.
        tracking_uri: MLflow's address; a SQLite file's folder is writable.
        environment: the container's variables; files and folders that they name are read-only.

    Raises:
        UserError: a path would hide the image's files, or a folder cannot be created.
    """
    read = set(_existing_paths(config)) | set(_existing_paths(dict(environment)))
    written = {runs_dir, *_written_by_steps(config, tracking_uri, environment)}
    for path in (*read, *written):
        _check_hides_nothing(path)
    linked = {target for path in read for target in _linked_from(path) if not _hides(target)}
    found = dict.fromkeys(read | linked, True)
    for path in written:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder cannot be created ({error.strerror})", where=str(path)) from error
    for path in (Path(constants.HF_HOME), Path(constants.HF_HUB_CACHE)):
        with suppress(OSError):  # without a cache, models are downloaded into the container
            path.mkdir(parents=True, exist_ok=True)
            written.add(path.absolute())
    found |= dict.fromkeys(written, False)
    return {str(path): found[path] for path in sorted(found)}


def _written_by_steps(config: Mapping[str, Any], uri: str, environment: Mapping[str, str]) -> Iterator[Path]:
    for name in _WRITTEN_BY_TRAIN:
        if folder := (config.get("train") or {}).get(name):
            yield Path(folder).absolute()
    if store := store_file(uri):
        yield store.parent
    elif uri.startswith("file:"):
        yield Path(url2pathname(urlsplit(uri).path)).absolute()
    if folder := environment.get(CHECKPOINTS_VARIABLE):
        yield Path(folder).absolute()


def _split(value: str) -> tuple[str, str]:
    prefix = next((prefix for prefix in _PREFIXES if value.startswith(prefix)), "")
    return prefix, value.removeprefix(prefix)


def _existing_paths(value: Any) -> Iterator[Path]:
    """Yield the existing paths that strings in ``value`` name; for a brace pattern, its folder."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _existing_paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _existing_paths(inner)
    elif isinstance(value, str) and value:
        text = _split(value)[1]
        if "{" in text and not os.path.exists(text):  # noqa: PTH110 (a text of any length and characters)
            text = str(Path(text.partition("{")[0] + "x").parent)
        # A hub id may also be a relative path that exists: the path wins.
        if len(text) < 4096 and "\0" not in text and "\n" not in text and os.path.exists(text):  # noqa: PTH110
            yield Path(text).absolute()


def _linked_from(path: Path) -> Iterator[Path]:
    """Yield the folders outside ``path`` that links in it point to, such as the blobs of a hub cache."""
    if not path.is_dir():
        return
    inside = path.resolve()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(folder, name)
            if entry.is_symlink() and os.path.exists(entry):  # noqa: PTH110 (False without permission)
                target = entry.resolve()
                if target.is_relative_to(inside):
                    continue
                yield target if target.is_dir() else target.parent


def _check_hides_nothing(path: Path) -> None:
    if _hides(path):
        raise UserError(
            "cannot be mounted into the steps' containers: it would hide the image's own files",
            where=str(path),
            mend="use another folder, or --runner subprocess",
        )


def _hides(path: Path) -> bool:
    return any(Path(own).is_relative_to(path) for own in _OF_THE_IMAGE)
