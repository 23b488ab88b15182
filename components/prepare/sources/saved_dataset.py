"""Reads a folder that ``datasets.save_to_disk`` wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

from components.prepare.documents.document import Unreadable, printable
from components.prepare.documents.reading_tasks import FileTask, ReadItem
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.table_rows import RowItem, TableStart
from components.prepare.documents.unreadable import unreadable
from components.shared.errors import UserError

_SPLITS_FILE = "dataset_dict.json"
_STATE_FILES = ("state.json", "dataset_info.json")


def is_saved_dataset(folder: Path) -> bool:
    """Return whether ``folder`` holds a saved dataset, or several splits of one."""
    return (folder / _SPLITS_FILE).is_file() or all((folder / name).is_file() for name in _STATE_FILES)


def split_folder(folder: Path, split: str) -> Path:
    """Return the folder of ``split``; a dataset that was saved without splits is its own.

    Raises:
        UserError: there is no such split, or the list of splits is damaged.
    """
    if not (folder / _SPLITS_FILE).is_file():
        return folder
    try:
        splits = json.loads((folder / _SPLITS_FILE).read_text(encoding="utf-8"))["splits"]
        names = [str(name) for name in splits]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"not a readable list of splits ({error})", where=str(folder / _SPLITS_FILE)) from error
    if split not in names or not (folder / split).is_dir():
        problem = f"no split {split!r} (there are: {', '.join(names)})"
        raise UserError(problem, where=f"source {folder}", mend="set source_split to one of them")
    return folder / split


def read_saved_dataset(reading: SourceReading, task: FileTask) -> Iterator[ReadItem]:
    """Yield one document per row of the folder; ids are ``FOLDER:ROW``, from 1. Only the named columns are read."""
    yield from reading.with_notes(_rows(Path(task.path), task.source_id, reading, task.start or TableStart()))


def _rows(folder: Path, name: str, reading: SourceReading, start: TableStart) -> Iterator[RowItem]:
    import datasets
    import pyarrow
    from datasets.exceptions import DatasetsError

    part = split_folder(folder, reading.settings.source_split)
    where, number = printable(str(part)), start.decided
    try:
        rows = datasets.load_from_disk(str(part))
        if problem := reading.check_columns(rows.column_names, where):
            yield RowItem(1, Unreadable(name, problem, "document_without_column"))
            return
        rows = rows.select_columns([column for column in reading.columns if column in rows.column_names])
        if start.problem:
            yield RowItem(number, start.dropped(reading.settings, f"{name}:{number}", f"{where}, row {number}"))
        if start.decided == len(rows):
            return
        rows = rows.select(range(start.decided, len(rows)))
        for number, row in enumerate(rows, start=start.decided + 1):
            yield RowItem(number, reading.document(row, f"{name}:{number}", f"{where}, row {number}"))
    except MemoryError:  # Arrow's is also one of the next line
        raise
    except (OSError, ValueError, LookupError, TypeError, DatasetsError, pyarrow.ArrowException) as error:
        problem = f"the rows from {number + 1} on cannot be read ({error})"
        marker = unreadable(
            reading.settings, f"{name}:{number + 1}", problem, where=where, mend="save the dataset again"
        )
        yield RowItem(number + 1, marker)
