"""The state of reading one source: its settings, and which of the named columns its rows have."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from components.prepare.documents.document import Document, Unreadable
from components.prepare.documents.text_decoding import WrongEncodingError, decode_text
from components.prepare.settings.source_settings import SourceSettings
from components.shared.errors import UserError

_MOST_COLUMNS_NAMED, _LONGEST_COLUMN_NAME = 20, 40
Item = TypeVar("Item")

_COLUMN_OPTIONS = ("text_column", "title_column", "target_column", "lang_column")


@dataclass(frozen=True)
class NotedColumns:
    """The column settings of which a row was seen, and the errors of those that a row lacked."""

    seen: frozenset[str]
    missing: Mapping[str, UserError]


class SourceReading:
    """Turns rows into documents; one object per reading of a source."""

    def __init__(self, settings: SourceSettings) -> None:
        self.settings = settings
        self._columns = {
            option: column for option in _COLUMN_OPTIONS if (column := getattr(settings, option)) is not None
        }
        self._seen: set[str] = set()
        self._missing: dict[str, UserError] = {}

    @property
    def columns(self) -> list[str]:
        """The columns that the settings name, each once."""
        return list(dict.fromkeys(self._columns.values()))

    def document(self, row: Mapping[str, Any], source_id: str, where: str) -> Document | Unreadable:
        """Return the document in a row, or a marker if the row lacks the text column or is not in the encoding.

        A null text becomes "", which is dropped later. Titles, summaries and languages that are not text count as
        missing. Bytes are decoded.

        Raises:
            UserError: ``on_unreadable`` is ``stop`` and the row lacks a named column that no earlier row had.
        """
        if problem := self.check_columns(list(row), where):
            return Unreadable(source_id, problem, "document_without_column")
        try:
            values = {option: self._value(row.get(column)) for option, column in self._columns.items()}
        except WrongEncodingError as error:
            return Unreadable(source_id, str(error), "document_wrong_encoding")
        strings = {option: value for option, value in values.items() if isinstance(value, str)}
        text = values["text_column"]
        return Document(
            source_id,
            "" if text is None else text,
            title=strings.get("title_column"),
            lang=strings.get("lang_column") or self.settings.lang,
            target=strings.get("target_column"),
        )

    def check_columns(self, present: Sequence[str], where: str) -> str | None:
        """Note which named columns a row or table has; return what is wrong if it lacks the text column.

        Raises:
            UserError: ``on_unreadable`` is ``stop`` and a named column is missing that was not there before.
        """
        problem = None
        for option, column in self._columns.items():
            if column in present:
                self._seen.add(option)
                continue
            error = _missing_column(column, option, present, where)
            if self.settings.on_unreadable == "stop" and option not in self._seen:
                raise error
            self._missing.setdefault(option, error)
            problem = problem or (error.problem if option == "text_column" else None)
        return problem

    def with_notes(self, items: Iterable[Item]) -> Iterator[Item | NotedColumns]:
        """Yield ``items``, and what has been noted about the columns whenever that has changed.

        So the same reading in another process learns of it.
        """
        known = 0
        for item in items:
            if known != len(self._seen) + len(self._missing):
                known = len(self._seen) + len(self._missing)
                yield self._noted()
            yield item
        if known != len(self._seen) + len(self._missing):
            yield self._noted()

    def _noted(self) -> NotedColumns:
        return NotedColumns(frozenset(self._seen), dict(self._missing))

    def note(self, noted: NotedColumns) -> None:
        """Add what another process has noted."""
        self._seen |= noted.seen
        self._missing = {**noted.missing, **self._missing}

    def finish(self) -> None:
        """Check that each named column was in some row.

        Raises:
            UserError: a column was in no row: the setting is wrong, not a row.
        """
        for option, error in self._missing.items():
            if option not in self._seen:
                raise error

    def _value(self, value: Any) -> Any:
        if isinstance(value, list | dict):
            return type(value)()  # no text: its values, which can be millions, are not passed on
        return decode_text(value, self.settings.encoding) if isinstance(value, bytes) else value


def _missing_column(column: str, option: str, present: Sequence[str], where: str) -> UserError:
    named = [str(name)[:_LONGEST_COLUMN_NAME] for name in present[:_MOST_COLUMNS_NAMED]]
    there = ", ".join([*named, "…"] if len(present) > len(named) else named) or "none"
    return UserError(f"no column {column!r} (there are: {there})", where=where, mend=f"set {option} to one of them")
