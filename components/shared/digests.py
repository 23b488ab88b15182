"""SHA-256 digests of files, folders and JSON values."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hex sha256 of a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_folder(folder: Path) -> str:
    """Return one hex sha256 over the relative paths and contents of all files below ``folder``."""
    return sha256_of_files(file_digests(folder))


def file_digests(folder: Path) -> dict[str, str]:
    """Return relative path -> hex sha256 of all files below ``folder``, in the order of ``sha256_folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def sha256_of_files(digests: Mapping[str, str]) -> str:
    """Return the ``sha256_folder`` of a folder with these ``file_digests``; their order matters."""
    return sha256_json([[name, digest] for name, digest in digests.items()])
