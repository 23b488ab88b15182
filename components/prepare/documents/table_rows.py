"""The rows of a table by number, and where another process goes on after a row that ended the one before it."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from components.prepare.documents.document import Document, Unreadable
from components.prepare.documents.unreadable import unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.shared.foreign_files.limits import LimitExceededError

MOST_DROPPED_ROWS = 10
"""Behind so many rows of one table that go beyond the limits, the rest is not read: each may take a minute."""
ROWS_OF_A_PART = 10_000
"""Rows that are passed count as parts of the one behind them: each part gives it more time."""
OVER_LIMITS_MEND = "raise max_document_seconds or max_document_gib, or leave it out"


class RowItem(NamedTuple):
    """What a table gives for a row.

    Attributes:
        row: the row's number from 1; for a marker of several rows, that of the last one.
    """

    row: int
    item: Document | Unreadable


@dataclass(frozen=True)
class TableStart:
    """Where the reading of a table begins; the default is its first row.

    Rows are numbered as in ids; WebDataset samples in the order of the shard.

    Attributes:
        passed: the last row that was read or dropped before.
        problem: why the row behind ``passed`` is dropped instead of being read; "": it is read.
        row_by_row: rows are decoded one at a time, so that only one of them can be to blame.
        with_group: the rest of its row group is dropped with that row: there is no way past it.
    """

    passed: int = 0
    problem: str = ""
    row_by_row: bool = True
    with_group: bool = False

    @property
    def decided(self) -> int:
        """The last row that is not read any more."""
        return self.passed + bool(self.problem)

    def dropped(self, settings: SourceSettings, source_id: str, where: str) -> Unreadable:
        """Return the marker for the row that is dropped.

        Raises:
            UserError: ``on_unreadable`` is ``stop``.
        """
        return unreadable(
            settings, source_id, self.problem, where=where, mend=OVER_LIMITS_MEND, reason="document_over_limits"
        )


@dataclass(frozen=True)
class TableTask:
    """What rows are read from.

    Attributes:
        source_id: its name in ids.
        start: None if it is no table but one document.
    """

    source_id: str
    start: TableStart | None

    def from_row(self, start: TableStart) -> Self:
        """Return the task to read the same table from another row on."""
        return replace(self, start=start)


class TableProgress:
    """How far the reading of one table has come, through all the processes that it takes."""

    def __init__(self, task: object) -> None:
        self.row = 0
        self.dropped = 0
        start = task.start if isinstance(task, TableTask) else None
        self._in_groups = start is not None and not start.row_by_row

    def resumed(self, task: object, error: LimitExceededError) -> TableTask | None:
        """Return the task to go on with after the process that did ``task`` was ended; None if the rest is lost."""
        if not isinstance(task, TableTask) or task.start is None:
            return None
        start = task.start
        if not start.row_by_row:  # the row to blame is one of several that were decoded together
            return task.from_row(TableStart(self.row))
        if start.problem and self.row == start.passed:  # it was ended on its way past the row
            can_pass = self._in_groups and not start.with_group
            return task.from_row(replace(start, with_group=True)) if can_pass else None
        if self.dropped == MOST_DROPPED_ROWS:
            return None
        self.dropped += 1
        return task.from_row(TableStart(self.row, error.problem))
