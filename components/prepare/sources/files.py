"""Documents from files: text, JSON lines, Parquet and WebDataset shards."""

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.prepare.config import PrepareConfig
from components.prepare.sources.document import Document
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
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"not valid JSON ({error})", where=f"{path}, line {number}", mend="mend it") from error
            if not isinstance(row, dict):
                raise UserError("not a JSON object", where=f"{path}, line {number}", mend="one object per line")
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
        samples = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        for sample in samples:
            source_id = f"{name}:{sample['__key__']}"
            if "json" in sample:
                row = json.loads(sample["json"])
                check_columns(list(row), config, where=f"{path}, {sample['__key__']}.json")
                yield document_of_row(row, source_id, config)
            elif "txt" in sample:
                yield Document(source_id=source_id, text=_decoded(sample["txt"]))
            else:
                raise UserError(
                    "the sample has neither a .txt nor a .json member", where=f"{path}, {sample['__key__']}"
                )
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise UserError(f"a corrupt shard ({error})", where=str(path), mend="make or copy the shard again") from error


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
