"""Named contents in a folder or in an S3 bucket; each appears whole or not at all."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from components.serve.sample_settings import S3

_PARTIAL = ".partial-"
_SECONDS_OF_A_WRITE = 3600.0  # a partial file that is older belongs to a killed process
_CONNECT_SECONDS, _REQUEST_SECONDS = 10.0, 60.0


class Objects(Protocol):
    """Contents by name; a name is ``FOLDER/FILE``. Every method raises OSError where the store fails."""

    def put(self, name: str, content: bytes) -> None:
        """Write or replace a content."""

    def get(self, name: str) -> bytes | None:
        """Return a content; None if there is none."""

    def exists(self, name: str) -> bool:
        """Return whether there is a content of this name."""

    def files(self, folder: str) -> list[str]:
        """Return the files in a folder, sorted."""

    def delete(self, name: str) -> None:
        """Remove a content, if it is there."""

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half-written."""


def objects_at(place: str) -> Objects:
    """Return the store at ``place``: a folder, or ``s3://BUCKET/PREFIX``."""
    return BucketObjects(place.removeprefix(S3).strip("/")) if place.startswith(S3) else FolderObjects(Path(place))


class FolderObjects:
    """Files below a folder, which only this user may read."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    def put(self, name: str, content: bytes) -> None:
        """Write a temporary file and rename it."""
        path = self._root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.parent / f"{_PARTIAL}{secrets.token_hex(8)}"
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def get(self, name: str) -> bytes | None:
        """Return the file's bytes."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Return whether the file is there."""
        return (self._root / name).exists()

    def files(self, folder: str) -> list[str]:
        """Return the finished files of a folder."""
        return sorted(name for name in self._names(folder) if not name.startswith(_PARTIAL))

    def delete(self, name: str) -> None:
        """Remove the file."""
        (self._root / name).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove temporary files that nobody writes any more."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            for name in self._names(folder.name) if folder.is_dir() else ():
                path = folder / name
                with suppress(FileNotFoundError):  # another process has just renamed it
                    if name.startswith(_PARTIAL) and time.time() - path.stat().st_mtime > _SECONDS_OF_A_WRITE:
                        path.unlink()

    def _names(self, folder: str) -> Iterator[str]:
        try:
            yield from os.listdir(self._root / folder)  # noqa: PTH208 - names only: no stat of each file
        except FileNotFoundError:
            return


class BucketObjects:
    """Objects of an S3 bucket; a PUT makes an object appear whole.

    Credentials and region are those of AWS' variables and files. The endpoint is that of AWS_ENDPOINT_URL_S3 or
    AWS_ENDPOINT_URL.
    """

    def __init__(self, place: str) -> None:
        from pyarrow import fs

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        scheme, mark, host = endpoint.rstrip("/").rpartition("://")
        other: dict[str, Any] = {"endpoint_override": host, "scheme": scheme if mark else "https"} if host else {}
        self._place = place
        self._fs = fs.S3FileSystem(connect_timeout=_CONNECT_SECONDS, request_timeout=_REQUEST_SECONDS, **other)

    def put(self, name: str, content: bytes) -> None:
        """Upload a content."""
        with self._fs.open_output_stream(f"{self._place}/{name}") as stream:
            stream.write(content)

    def get(self, name: str) -> bytes | None:
        """Download a content."""
        try:
            with self._fs.open_input_stream(f"{self._place}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Ask for the object's head."""
        return bool(self._fs.get_file_info(f"{self._place}/{name}").is_file)

    def files(self, folder: str) -> list[str]:
        """List the objects; Arrow's markers of empty folders are none."""
        from pyarrow import fs

        selector = fs.FileSelector(f"{self._place}/{folder}", allow_not_found=True)
        return sorted(info.base_name for info in self._fs.get_file_info(selector) if info.is_file)

    def delete(self, name: str) -> None:
        """Delete the object."""
        try:
            self._fs.delete_file(f"{self._place}/{name}")
        except FileNotFoundError:
            return

    def remove_leftovers(self) -> None:
        """Do nothing: S3 shows no object before its PUT has ended."""
