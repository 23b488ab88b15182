"""Stores the frozen vision encoder's output for each page on disk, in bounded space.

    VISION_FEATURES_DIR/<digest of the vision part and its mode>/<aa>/<sha256 of the picture>.safetensors

Files are written under a temporary name and renamed, so trainings may share a folder and be killed at any time.
"""

import hashlib
import logging
import os
import re
import shutil
import time
import uuid
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from components.shared.programs.access_rights import not_writable

log = logging.getLogger(__name__)

BROUGHT_FEATURES = "vision_features"
"""The batch's key for ``features_serving``, see ``PageCollator``."""

_USED_FILE = "used"
_SUFFIX = ".safetensors"
_DOOMED = re.compile(r"\.[0-9a-f]{32}")  # the name of a folder that is being removed


@dataclass(frozen=True)
class PageFeatures:
    """A page's features, and the other inputs that the processor and the model need in place of the picture.

    Attributes:
        features: shape (image tokens, hidden size), as the language model takes them.
        inputs: the image processor's output without the pixels, one row each, e.g. ``image_grid_thw`` of shape (1, 3).
    """

    features: torch.Tensor
    inputs: dict[str, torch.Tensor]


class CorruptFeaturesError(Exception):
    """A stored file is damaged; it is removed, so that a later pass computes the features again."""


def picture_digest(image_bytes: bytes) -> str:
    """Return the hex sha256 that a picture's features are stored under."""
    return hashlib.sha256(image_bytes).hexdigest()


class FeatureStore:
    """The features of one vision part in one mode, in a folder shared with other vision parts.

    Cheap to send to data workers, which only read.

    Args:
        folder: contains the features of all vision parts.
        digest: identifies the vision part and its mode.
        limit: bytes that ``folder`` may hold; its size is measured when ``entries`` is called.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, digest: str, limit: int) -> None:
        self._folder = folder.absolute()
        self._own = self._folder / digest
        self._limit = limit
        self._processes = 1
        self._own_bytes = self._written = self._other_bytes = 0
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            (self._own / _USED_FILE).touch()
        except OSError as error:
            raise not_writable(error, f"vision_features_dir {folder}", self._own) from error

    def entries(self) -> dict[str, int]:
        """Return the bytes of each stored page by its picture's digest, and measure the folder's size again."""
        own = _sizes(self._own)
        self._own_bytes, self._written = sum(own.values()), 0
        self._other_bytes = sum(self._others().values())
        return own

    def read(self, picture: str) -> PageFeatures | None:
        """Return a page's features, or None if they are not stored.

        Raises:
            CorruptFeaturesError: the stored file is damaged.
        """
        path = self._path(picture)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            tensors = load(content)
            features, stored_sum = tensors.pop("features"), int(tensors.pop("crc32"))
            if _checksum(features) != stored_sum:
                raise ValueError("the checksum differs")
        except (SafetensorError, KeyError, ValueError) as error:
            path.unlink(missing_ok=True)
            raise CorruptFeaturesError(f"{path}: {error}") from error
        return PageFeatures(features, tensors)

    def write(self, picture: str, page: PageFeatures) -> bool:
        """Store a page's features; return whether there was room.

        To make room, features of other vision parts and modes are removed, the least recently used first.
        """
        tensors = {**page.inputs, "features": page.features, "crc32": torch.tensor(_checksum(page.features))}
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        path = self._path(picture)
        partial = path.with_name(f".{uuid.uuid4().hex}")
        try:
            if not self._make_room(len(content)):
                return False
            path.parent.mkdir(exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            log.warning("%s takes no more vision features: %s", self._folder, error)
            return False
        self._written += len(content)
        return True

    def share(self, processes: int) -> None:
        """Limit this process to one of ``processes`` equal parts of the room, after all have called ``entries``."""
        self._processes = processes

    def _path(self, picture: str) -> Path:
        return self._own / picture[:2] / f"{picture}{_SUFFIX}"

    def _others(self) -> dict[Path, int]:
        """Return the bytes of other vision parts' folders, least recently used first."""
        folders = [entry for entry in self._folder.iterdir() if entry != self._own and _holds_features(entry)]
        return {folder: sum(_sizes(folder).values()) for folder in sorted(folders, key=_last_use)}

    def _make_room(self, size: int) -> bool:
        # Assume that every process has written as much as this one: the one that wrote most keeps the total in bounds.
        own = self._own_bytes + self._processes * (self._written + size)
        if own > self._limit or own + self._other_bytes <= self._limit:
            return own <= self._limit
        others = self._others()  # measured again: another process may have made room
        while others and own + sum(others.values()) > self._limit:
            oldest = next(iter(others))
            log.info("the vision features in %s make room: %.2f GiB", oldest, others.pop(oldest) / 2**30)
            _remove(oldest)
        self._other_bytes = sum(others.values())
        return True


def _holds_features(folder: Path) -> bool:
    # A killed process may leave a renamed folder half removed, without its "used" file.
    return (folder / _USED_FILE).exists() or (_DOOMED.fullmatch(folder.name) is not None and folder.is_dir())


def _last_use(folder: Path) -> float:
    if _DOOMED.fullmatch(folder.name):
        return 0
    try:
        return (folder / _USED_FILE).stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _remove(folder: Path) -> None:
    """Rename a folder, then remove it, so that a training that still reads it finds whole pages or none.

    Another process may remove it at the same time.
    """
    if not _DOOMED.fullmatch(folder.name):
        doomed = folder.with_name(f".{uuid.uuid4().hex}")
        try:
            folder = folder.rename(doomed)
        except FileNotFoundError:
            return
    shutil.rmtree(folder, ignore_errors=True)


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(_SUFFIX):
                with suppress(FileNotFoundError):  # another training may have removed it
                    sizes[name.removesuffix(_SUFFIX)] = Path(parent, name).stat().st_size
    return sizes


def _checksum(features: torch.Tensor) -> int:
    return zlib.crc32(features.contiguous().reshape(-1).view(torch.uint8).numpy().data)
