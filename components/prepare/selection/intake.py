"""Takes one document after the other, compares it with the earlier ones and writes it to disk."""

from array import array
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from components.prepare.documents.drop_reasons import DropReason
from components.prepare.selection.candidate import Candidate, SelectionSettings
from components.prepare.selection.document_spool import DocumentSpool
from components.prepare.selection.document_store import read_record
from components.prepare.selection.fingerprint import fold
from components.prepare.selection.near_duplicates import Match, NearDuplicateIndex
from components.prepare.selection.script_census import ScriptCensus


class Intake:
    """The documents kept so far: lines on disk, and a few bytes per document in memory.

    Args:
        scratch: a folder for temporary files.

    Attributes:
        positions: per kept document, its number in [0, 1).
        evaluated: per kept document, 1 if it is on the eval side.
    """

    def __init__(self, settings: SelectionSettings, scratch: Path) -> None:
        self.positions = array("d")
        self.evaluated = bytearray()
        self.census = ScriptCensus()
        self.spool = DocumentSpool(scratch / "spool.jsonl")
        self._settings = settings
        self._index = NearDuplicateIndex(scratch, settings.near_duplicate_threshold, settings.seed, self._folded_text)

    def __enter__(self) -> Self:
        self._index.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._index.__exit__(kind, error, trace)
        self.spool.__exit__(kind, error, trace)

    def take(self, candidate: Candidate, evaluated: Callable[[float], bool]) -> DropReason | None:
        """Keep ``candidate`` and return None, or return the reason (``document_*``) for dropping it.

        ``evaluated`` says whether a document with a given position is on the eval side.
        """
        side = evaluated(candidate.position)
        match = self._index.admit(candidate.digest, candidate.signature, lambda: _folded(candidate.line))
        if match:
            return self._copy(match, side)
        self.positions.append(candidate.position)
        self.evaluated.append(side)
        self.census.add(candidate.letters)
        self.spool.append(candidate.line)
        return None

    def _copy(self, match: Match, evaluated: bool) -> DropReason:
        same_split = evaluated == self.evaluated[match.number]
        if match.kind == "exact":
            return "document_duplicate" if same_split else "document_duplicate_across_splits"
        return "document_near_duplicate" if same_split else "document_near_duplicate_across_splits"

    def _folded_text(self, place: int) -> str:
        return _folded(self.spool.line(place))


def _folded(line: bytes) -> str:
    return fold(read_record(line)["text"])
