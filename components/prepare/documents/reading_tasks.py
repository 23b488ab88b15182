"""What a reader opens: one file, folder or dataset each; what goes beyond the limits is dropped by its name."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.prepare.documents.document import Document, Unreadable, printable
from components.prepare.documents.source_reading import NotedColumns, SourceReading
from components.prepare.documents.unreadable import unreadable
from components.shared.foreign_files.foreign_reader import Read, Reader
from components.shared.foreign_files.limits import LimitExceededError

READING_MODULES = ("components.prepare.sources.opening", "components.prepare.rendering.page_pictures")
"""Hold the functions that open foreign files, and import the libraries for most of them."""
_MEND = "raise max_document_seconds or max_document_gib, or leave it out"


ReadItem = Document | Unreadable | NotedColumns
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
class FileTask:
    """A file or folder to open; ids begin with ``source_id``."""

    source_id: str
    path: str

    @property
    def where(self) -> str:
        return printable(self.path)


def file_task(path: Path, name: str) -> FileTask:
    """Return the task to read the file at ``path``, whose ids begin with ``name``."""
    return FileTask(name, str(path))


def documents_of(
    reader: Reader, read: Read, tasks: Iterable[Named | Unreadable], reading: SourceReading
) -> Iterator[Document | Unreadable]:
    """Yield the documents and markers that ``read`` gives for each task, in order.

    ``read`` gets the reading and a task, and passes markers on; see also ``SourceReading.with_notes``.

    Raises:
        UserError: a task goes beyond the limits, and ``on_unreadable`` is ``stop``; or ``read`` raises it.
    """
    for task, items in reader.each(read, tasks):
        before = 0
        try:
            for item in items:
                if isinstance(item, NotedColumns):
                    reading.note(item)
                else:
                    before += 1
                    yield item
        except LimitExceededError as error:
            assert not isinstance(task, Unreadable)
            behind = f" (behind the first {before} documents)" if before else ""
            yield unreadable(
                reading.settings,
                task.source_id,
                f"{error.problem}{behind}",
                where=task.where,
                mend=_MEND,
                reason="document_over_limits",
            )
