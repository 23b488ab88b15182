"""A package's files, read in place: a zip is never unpacked, so no entry's name can escape a folder."""

import hashlib
import json
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from components.shared.errors import UserError

# What zipfile raises on damaged or strange archives: NotImplementedError for an unknown compression, RuntimeError for
# an encrypted entry, ValueError for a broken date or name, EOFError and OSError for a cut one.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
)
# A download from the hub adds these: the repository's settings and the download's metadata.
_HUBS_FILE, _HUBS_FOLDER = ".gitattributes", (".cache", "huggingface")
_LARGEST_JSON = 64_000_000  # bytes
_MOST_ENTRIES = 10_000  # a package has about forty files
# Deflate can shrink 1032-fold (zlib's documentation). Such an entry is a bomb, and takes long to hash.
_LARGEST_RATIO, _SMALL = 200, 10_000_000


class UnreadableFileError(Exception):
    """A file of the package cannot be read; its message says why."""


def parsed_json(content: bytes) -> Any:
    """Return the parsed JSON text.

    Raises:
        ValueError: it is not JSON, or holds a lone surrogate, which cannot be encoded for a digest.
    """
    value = json.loads(content)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


@dataclass(frozen=True)
class PackageFiles:
    """The files of a package.

    Attributes:
        files: relative path -> a path, or an entry of ``archive``.
        unsafe: names that a package must not contain (outside its folder, links, duplicates), with the reason.
    """

    files: dict[str, Path | zipfile.ZipInfo]
    unsafe: dict[str, str]
    archive: zipfile.ZipFile | None = None

    def sha256(self, name: str) -> str:
        """Return the hex sha256 of a file.

        Raises:
            UnreadableFileError: its bytes cannot be read, or are damaged.
        """
        with self.opened(name) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            UnreadableFileError: its bytes cannot be read or are damaged, or it is too large.
        """
        place = self.files[name]
        declared = place.stat().st_size if isinstance(place, Path) else place.file_size
        if declared > _LARGEST_JSON:
            raise UnreadableFileError(f"larger than {_LARGEST_JSON / 1e6:.0f} MB")
        with self.opened(name) as stream:
            content = stream.read(_LARGEST_JSON + 1)  # the declared size may be wrong
        if len(content) > _LARGEST_JSON:
            raise UnreadableFileError(f"larger than {_LARGEST_JSON / 1e6:.0f} MB")
        return content

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading.

        Raises:
            UnreadableFileError: its bytes cannot be read or are damaged.
        """
        place = self.files[name]
        try:
            if isinstance(place, Path):
                with place.open("rb") as stream:
                    yield stream
            else:
                assert self.archive is not None
                with self.archive.open(place) as stream:
                    yield stream
        except _UNREADABLE as error:
            raise UnreadableFileError(str(error).strip() or type(error).__name__) from error


@contextmanager
def opened_package(path: Path) -> Iterator[PackageFiles]:
    """Open a package: its zip, or the unpacked folder.

    Raises:
        UserError: no such file or folder, or not a zip.
    """
    if path.is_dir():
        yield _in_folder(path)
        return
    if not path.is_file():
        raise UserError("no such file or folder", where=str(path), mend="give a package: a zip, or its unpacked folder")
    try:
        archive = zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise UserError(
            f"not a readable zip ({error})", where=str(path), mend="get the package again: it is cut or damaged"
        ) from error
    with archive:
        if len(archive.infolist()) > _MOST_ENTRIES:
            raise UserError(
                f"not a package: {len(archive.infolist())} entries", where=str(path), mend="give a package: a zip"
            )
        yield _in_archive(archive)


def _in_folder(folder: Path) -> PackageFiles:
    files: dict[str, Path | zipfile.ZipInfo] = {}
    unsafe: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        if name == _HUBS_FILE or relative.parts[:2] == _HUBS_FOLDER:
            continue
        if path.is_symlink():
            unsafe[name] = "a link"
        elif path.is_file():
            files[name] = path
    return PackageFiles(files, unsafe)


def _in_archive(archive: zipfile.ZipFile) -> PackageFiles:
    """Return the entries below the package's one top folder."""
    files: dict[str, Path | zipfile.ZipInfo] = {}
    unsafe: dict[str, str] = {}
    top = archive.namelist()[0].partition("/")[0] if archive.namelist() else ""
    for entry in archive.infolist():
        if reason := _unsafe(entry, top, files):
            unsafe[entry.filename] = reason
        elif not entry.is_dir():
            files[entry.filename.removeprefix(f"{top}/")] = entry
    return PackageFiles(files, unsafe, archive)


def _unsafe(entry: zipfile.ZipInfo, top: str, files: dict[str, Path | zipfile.ZipInfo]) -> str | None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in (parts[0] if parts else ""):
        return "its name leads out of the package"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link"
    if parts[:1] != (top,) or (len(parts) == 1 and not entry.is_dir()):
        return f"not in the folder {top!r}"
    if name.removeprefix(f"{top}/") in files:
        return "there twice"
    if entry.file_size > max(_SMALL, _LARGEST_RATIO * entry.compress_size):
        return f"a compressed bomb ({entry.compress_size} bytes become {entry.file_size})"
    return None
