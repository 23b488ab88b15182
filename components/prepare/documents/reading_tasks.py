"""What a reader opens: one file, folder or dataset each; what goes beyond the limits is dropped by its name."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.source_reading import NotedColumns, SourceReading
from components.prepare.documents.table_rows import (
    MOST_DROPPED_ROWS,
    OVER_LIMITS_MEND,
    RowItem,
    TableProgress,
    TableTask,
)
from components.prepare.documents.unreadable import unreadable
from components.shared.foreign_files.foreign_reader import Read, Reader
from components.shared.foreign_files.limits import LimitExceededError

READING_MODULES = ("components.prepare.sources.opening", "components.prepare.rendering.page_pictures")
"""Hold the functions that open foreign files, and import the libraries for most of them."""


ReadItem = Document | Unreadable | RowItem | NotedColumns
"""What a reading function yields."""


class Named(Protocol):
    """A task, or a marker that takes its place in the order of the source."""

    @property
    def source_id(self) -> str:
        """Its name in ids."""

    @property
    def where(self) -> str:
        """Its name in errors."""


@dataclass(frozen=True)
class FileTask(TableTask):
    """A file or folder to open; ids begin with ``source_id``."""

    path: str

    @property
    def where(self) -> str:
        return printable(self.path)


def documents_of(
    reader: Reader, read: Read, tasks: Iterable[Named | Unreadable], reading: SourceReading
) -> Iterator[Document | Unreadable]:
    """Yield the documents and markers that ``read`` gives for each task, in order.

    ``read`` gets the reading and a task, and passes markers on; see also ``SourceReading.with_notes``. Of a table, a
    row beyond the limits is dropped, and a new process goes on behind it.

    Raises:
        UserError: a task or row goes beyond the limits, and ``on_unreadable`` is ``stop``; or ``read`` raises it.
    """
    progress = TableProgress(None)

    def resumed(task: object, error: LimitExceededError) -> TableTask | None:
        return progress.resumed(task, error)

    for task, items in reader.each(read, tasks, resumed):
        progress, before = TableProgress(task), 0
        try:
            for item in items:
                if isinstance(item, NotedColumns):
                    reading.note(item)
                    continue
                if isinstance(item, RowItem):
                    progress.row, item = item
                before += 1
                yield item
        except LimitExceededError as error:
            assert not isinstance(task, Unreadable)
            yield unreadable(
                reading.settings,
                task.source_id,
                f"{error.problem}{_place(progress, before)}",
                where=task.where,
                mend=OVER_LIMITS_MEND,
                reason="document_over_limits",
            )


def _place(progress: TableProgress, before: int) -> str:
    """Return what to say of the place in a table, if rows were read."""
    behind = f" (behind the first {before} documents)" if before else ""
    if progress.dropped < MOST_DROPPED_ROWS:
        return behind
    return f"{behind}, as {MOST_DROPPED_ROWS} rows before: the rest is not read"
