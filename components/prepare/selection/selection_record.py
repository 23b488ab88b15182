"""What a selection holds, and its ``selection.json`` beside the documents' files."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from components.prepare.selection.document_store import read_documents
from components.prepare.selection.selected_document import SelectedDocument
from components.shared.artifacts.dataset_manifest import Split
from components.shared.errors import UserError

SELECTION_FILE = "selection.json"


class SourceCounts(BaseModel):
    """What became of one source's documents: ``read == kept + sum(dropped.values())``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    read: int
    kept: int
    dropped: Counter[str]


class Selection(BaseModel):
    """The selected documents of a folder; ``read == count + sum(dropped.values())``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path = Field(exclude=True)
    """where ``selection.json`` and the documents' files lie; not in the file, the folder may be moved"""
    count: int
    """selected documents; their numbers are 0 to count-1"""
    documents: dict[Split, int]
    """selected documents by split"""
    read: int
    """documents that the sources and the holdout gave"""
    dropped: Counter[str]
    """reason (``document_*``) -> documents that are not selected"""
    scripts: dict[str, int]
    """ISO 15924 code -> selected documents that use a character of the script"""
    characters: dict[str, str]
    """ISO 15924 code (Zyyy and Zinh too) -> characters of the texts, in code point order; with several sources those
    of ``document_over_weight`` are among them"""
    sources: list[SourceCounts]
    """the holdout, where there is one, and the sources in their order"""

    def read_documents(self, start: int = 0, stop: int | None = None) -> Iterator[SelectedDocument]:
        """Yield the documents from ``start`` to before ``stop``, without it to the last one.

        Raises:
            UserError: one of them is missing, or its line is damaged.
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
            UserError: there is none, or it is not valid.
        """
        path = folder / SELECTION_FILE
        try:
            return cls.model_validate({**json.loads(path.read_text(encoding="utf-8")), "folder": folder})
        except OSError as error:
            problem = f"no selection ({error.strerror})"
            raise UserError(problem, where=str(path), mend="run the selection first") from error
        except (ValueError, TypeError) as error:
            raise UserError("not a valid selection", where=str(path), mend="run the selection again") from error
