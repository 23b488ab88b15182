"""From the ``source`` setting to documents, and to a digest of what they are."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import braceexpand

from components.prepare.config import PrepareConfig
from components.prepare.sources.document import Document, printable
from components.prepare.sources.files import READERS, read_file
from components.prepare.sources.hugging_face import hugging_face_digest, read_hugging_face
from components.prepare.sources.python_docs import python_docs_digest, read_python_docs
from components.shared.errors import UserError
from components.shared.lineage import sha256_file, sha256_json

PYTHON_DOCS = "python-docs"
HUB_PREFIX = "hf:"


def read_documents(config: PrepareConfig) -> Iterator[Document]:
    """Yield the source's documents in a fixed order, at most ``max_documents``.

    Raises:
        UserError: the source does not exist, is empty, unreadable or lacks a column.
    """
    return islice(_all_documents(config), config.max_documents)


def source_digest(config: PrepareConfig) -> str:
    """Return a sha256 that changes when the source's content changes.

    Raises:
        UserError: the source does not exist or cannot be read.
    """
    if config.source == PYTHON_DOCS:
        return python_docs_digest()
    if config.source.startswith(HUB_PREFIX):
        return hugging_face_digest(config.source.removeprefix(HUB_PREFIX), config)
    return sha256_json([[name, sha256_file(path)] for name, path in _source_files(config.source)])


def _all_documents(config: PrepareConfig) -> Iterator[Document]:
    if config.source == PYTHON_DOCS:
        yield from read_python_docs()
    elif config.source.startswith(HUB_PREFIX):
        yield from read_hugging_face(config.source.removeprefix(HUB_PREFIX), config)
    else:
        for name, path in _source_files(config.source):
            yield from read_file(path, name, config)


def _source_files(source: str) -> list[tuple[str, Path]]:
    kinds = ", ".join(READERS)
    root = Path(source).expanduser()
    if "{" in source and not root.exists():
        paths = [Path(name) for name in braceexpand.braceexpand(source)]
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError("no such file", where=f"source {missing[0]}", mend="check the pattern")
        return [(printable(path.name), path) for path in paths]
    if root.is_file():
        if root.suffix.lower() not in READERS:
            raise UserError(f"not a kind of file that can be read ({kinds})", where=f"source {root}")
        return [(printable(root.name), root)]
    if not root.is_dir():
        hint = f"; a dataset on the hub is written {HUB_PREFIX}{source}" if source.count("/") == 1 else ""
        raise UserError(
            "no such file or folder", where=f"source {source!r}", mend=f"give a path or {PYTHON_DOCS!r}{hint}"
        )
    found = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in READERS)
    if not found:
        raise UserError(f"the folder holds no file that can be read ({kinds})", where=f"source {root}")
    return [(printable(path.relative_to(root).as_posix()), path) for path in found]
