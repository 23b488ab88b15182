"""A package's files: read in place, or unpacked after every entry's name, kind and size was looked at."""

import hashlib
import json
import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
PACKAGE_SETTINGS = "inference_config.json"
_LARGEST_JSON = 64_000_000  # bytes
_MOST_ENTRIES = 10_000  # a package has about forty files
# Deflate can shrink 1032-fold (zlib's documentation). Such an entry is a bomb, and takes long to hash.
_LARGEST_RATIO, _SMALL = 200, 10_000_000
_MOST_UNPACKED = 64 * 1024**3  # bytes: a merged model of 30 B parameters in 16 bits
_AGAIN = "get the package again: it is cut or damaged"


class UnreadableFileError(Exception):
    """A file of the package cannot be read; its message says why."""


def parsed_json(content: bytes) -> Any:
    """Return the parsed JSON text.

    Raises:
        ValueError: it is not JSON, nested too deeply, or holds a lone surrogate, which cannot be encoded for a digest.
    """
    try:
        value = json.loads(content)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def json_mapping(path: Path, mend: str) -> dict[str, Any]:
    """Return the JSON object in a small file of a package or model, whoever wrote it.

    Raises:
        UserError: the file cannot be read, is too large, or holds no JSON object.
    """
    try:
        content = parsed_json(PackageFiles({path.name: path}, {}).read(path.name))
    except (UnreadableFileError, ValueError) as error:
        raise UserError(f"cannot be read as JSON ({error})", where=str(path), mend=mend) from error
    if not isinstance(content, dict):
        raise UserError("holds no mapping", where=str(path), mend=mend)
    return content


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
        if not isinstance(place, Path) and place.file_size > _LARGEST_JSON:
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
        raise UserError(f"not a readable zip ({error})", where=str(path), mend=_AGAIN) from error
    with archive:
        if len(archive.infolist()) > _MOST_ENTRIES:
            raise UserError(
                f"not a package: {len(archive.infolist())} entries", where=str(path), mend="give a package: a zip"
            )
        yield _in_archive(archive)


def unpack(archive: Path, folder: Path) -> None:
    """Write a package's files, without the zip's top folder, into ``folder``, which is new or empty.

    Raises:
        UserError: it is no zip, has an entry that ``verify`` would call unsafe, unpacks to far more bytes than it has
            or than a model has, or cannot be read or written.
    """
    with opened_package(archive) as package:
        for name, reason in package.unsafe.items():
            raise UserError(f"its entry {name!r} is {reason}", where=str(archive), mend="give a package's zip")
        entries = [place for place in package.files.values() if isinstance(place, zipfile.ZipInfo)]
        size, unpacked = archive.stat().st_size, sum(entry.file_size for entry in entries)
        if unpacked > min(_MOST_UNPACKED, max(_SMALL, _LARGEST_RATIO * size)):
            raise UserError(
                f"its {size} bytes become {unpacked}, more than a model has", where=str(archive), mend=_AGAIN
            )
        for name in package.files:
            target = folder / name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with package.opened(name) as stream, target.open("xb") as written:
                    shutil.copyfileobj(stream, written)  # zipfile ends each entry at its declared size
            except (UnreadableFileError, OSError) as error:
                raise UserError(f"{name} cannot be unpacked ({error})", where=str(archive), mend=_AGAIN) from error


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
    parts = tuple(name.removesuffix("/").split("/"))
    if set(parts) & {"", ".", ".."} or "\\" in name or ":" in parts[0]:
        return "a name that leads out of the package"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link"
    if parts[:1] != (top,) or (len(parts) == 1 and not entry.is_dir()):
        return f"not in the folder {top!r}"
    if name.removeprefix(f"{top}/") in files:
        return "there twice"
    if entry.file_size > max(_SMALL, _LARGEST_RATIO * entry.compress_size):
        return f"a compressed bomb ({entry.compress_size} bytes become {entry.file_size})"
    return None
