"""The record of a selection, stored as ``selection.json`` beside the files of documents."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from components.prepare.documents.drop_reasons import DropReason
from components.prepare.documents.drop_table import DropTable
from components.prepare.selection.document_store import read_documents
from components.prepare.selection.selected_document import SelectedDocument
from components.shared.artifacts.dataset_manifest import Split
from components.shared.errors import UserError

SELECTION_FILE = "selection.json"


class SourceCounts(BaseModel):
    """The counts of one source: ``read == kept + sum(dropped.values())``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    read: int
    kept: int
    dropped: Counter[DropReason]


class Selection(BaseModel):
    """The selected documents in a folder; ``read == count + sum(dropped.values())``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path = Field(exclude=True)
    """the folder of ``selection.json`` and the documents; not stored, because the folder may be moved"""
    count: int
    """number of selected documents; they are numbered from 0 to count-1"""
    documents: dict[Split, int]
    """selected documents by split"""
    read: int
    """number of documents read from the sources and the holdout"""
    dropped: Counter[DropReason]
    """reason (``document_*``) -> number of documents that are not selected"""
    dropped_names: dict[DropReason, list[str]] = {}
    """reason -> ids of the first ten of them"""
    unread_kinds: Counter[str] = Counter()
    """suffix -> files of a kind that is not read"""
    scripts: dict[str, int]
    """ISO 15924 code -> number of selected documents that use a character of the script"""
    characters: dict[str, str]
    """ISO 15924 code (including Zyyy and Zinh) -> characters of the texts, in code point order; with several sources
    also those of documents dropped as ``document_over_weight``"""
    sources: list[SourceCounts]
    """the holdout, if there is one, and the sources in order"""

    def drop_table(self) -> DropTable:
        """Return what is not selected, as a table that can be added to."""
        table = DropTable()
        table.update(self.dropped, self.dropped_names, self.unread_kinds)
        return table

    def read_documents(self, start: int = 0, stop: int | None = None) -> Iterator[SelectedDocument]:
        """Yield the documents from ``start`` up to ``stop`` (exclusive; None: all).

        Raises:
            UserError: a document is missing, or its line is damaged.
        """
        return read_documents(self.folder, start, self.count if stop is None else min(stop, self.count))

    def save(self) -> Path:
        """Write ``selection.json`` into the folder and return its path."""
        path = self.folder / SELECTION_FILE
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the ``selection.json`` of ``folder``.

        Raises:
            UserError: the file is missing or not valid.
        """
        path = folder / SELECTION_FILE
        try:
            return cls.model_validate({**json.loads(path.read_text(encoding="utf-8")), "folder": folder})
        except OSError as error:
            problem = f"no selection ({error.strerror})"
            raise UserError(problem, where=str(path), mend="run the selection first") from error
        except (ValueError, TypeError) as error:
            raise UserError("not a valid selection", where=str(path), mend="run the selection again") from error
