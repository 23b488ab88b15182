"""Documents from files: text, JSON lines, Parquet and WebDataset shards."""

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.prepare.config import PrepareConfig
from components.prepare.sources.document import Document, printable
from components.shared.errors import UserError


def read_file(path: Path, name: str, config: PrepareConfig) -> Iterator[Document]:
    """Yield the documents of one file; ``name`` is its path relative to the source and starts every id.

    Raises:
        UserError: the file cannot be read, is corrupt, or lacks ``text_column``.
    """
    try:
        yield from READERS[path.suffix.lower()](path, name, config)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", where=str(path)) from error


def _read_text(path: Path, name: str, config: PrepareConfig) -> Iterator[Document]:
    content = path.read_bytes()
    yield Document(source_id=name, text=_decoded(content))


def _read_jsonl(path: Path, name: str, config: PrepareConfig) -> Iterator[Document]:
    checked = False
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            row = _json_object(line, where=f"{path}, line {number}")
            if not checked:
                check_columns(list(row), config, where=f"{path}, line {number}")
                checked = True
            yield document_of_row(row, f"{name}:{number}", config)


def _read_parquet(path: Path, name: str, config: PrepareConfig) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        check_columns(table.schema_arrow.names, config, where=str(path))
        columns = [column for column in (config.text_column, config.title_column) if column]
        number = 0
        for batch in table.iter_batches(columns=columns, batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield document_of_row(row, f"{name}:{number}", config)
    except (pyarrow.ArrowException, pyarrow.ArrowInvalid) as error:
        raise UserError(f"not a readable Parquet file ({error})", where=str(path)) from error


def _read_webdataset(path: Path, name: str, config: PrepareConfig) -> Iterator[Document]:
    import webdataset

    try:
        _check_tar_is_whole(path)
        # Absolute and in a list: a bare string would be expanded, and taken for a URL where it holds a colon.
        for sample in webdataset.WebDataset([str(path.absolute())], shardshuffle=False, empty_check=False):
            key = printable(sample["__key__"])
            where = f"{path}, {key}.json"
            if "json" in sample:
                row = _json_object(sample["json"], where)
                check_columns(list(row), config, where)
                yield document_of_row(row, f"{name}:{key}", config)
            elif "txt" in sample:
                yield Document(source_id=f"{name}:{key}", text=_decoded(sample["txt"]))
            else:
                raise UserError("the sample has neither a .txt nor a .json member", where=f"{path}, {key}")
    except (tarfile.TarError, ValueError, EOFError) as error:
        problem = error.args[0] if error.args else error  # webdataset adds the open file to what str(error) shows
        raise UserError(f"a corrupt shard ({problem})", where=str(path), mend="make or copy the shard again") from error


def _check_tar_is_whole(path: Path) -> None:
    """tarfile takes a broken header, or the end of a file that was cut off, for the archive's end: look further."""
    with tarfile.open(path, "r:") as archive:
        archive.getmembers()
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"no end of archive, and no readable member, at byte {archive.offset}")


def _json_object(text: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON ({error})", where=where, mend="mend or remove it") from error
    if not isinstance(row, dict):
        raise UserError("not a JSON object", where=where, mend="one object per line or member")
    return row


def document_of_row(row: dict[str, Any], source_id: str, config: PrepareConfig) -> Document:
    """Return the document of one table row; a missing or null text is dropped later as empty."""
    title = row.get(config.title_column) if config.title_column else None
    text = row.get(config.text_column)
    return Document(source_id, "" if text is None else text, title if isinstance(title, str) else None)


def check_columns(present: list[str], config: PrepareConfig, where: str) -> None:
    """Compare a table's columns with the ones that the config names.

    Raises:
        UserError: names the missing column and those that there are.
    """
    for option in ("text_column", "title_column"):
        column = getattr(config, option)
        if column is not None and column not in present:
            raise UserError(
                f"no column {column!r} (there are: {', '.join(present) or 'none'})",
                where=where,
                mend=f"set {option} to one of them",
            )


def _decoded(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content


READERS: dict[str, Callable[[Path, str, PrepareConfig], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".tar": _read_webdataset,
}
