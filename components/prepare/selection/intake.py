"""One document after the other: cleaned, compared with those before it, and spooled to disk."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from components.prepare.selection.cleaning import clean_text
from components.prepare.selection.document_spool import DocumentSpool
from components.prepare.selection.document_store import document_line, read_record
from components.prepare.selection.fingerprint import fingerprint, fold
from components.prepare.selection.near_duplicates import Match, NearDuplicateIndex
from components.prepare.selection.script_census import ScriptCensus
from components.prepare.sources.document import Document, PagePicture


@dataclass(frozen=True)
class SelectionSettings:
    """How documents are selected.

    Attributes:
        eval_fraction: share of the documents that are held out, in [0, 1); not used where a holdout is given.
        seed: of the split and of MinHash.
        near_duplicate_threshold: Jaccard similarity of five-word shingles from which two documents are copies, in
            (0, 1]; None: only equal texts are.
        max_document_characters: documents of more characters, title included, are dropped before they are cleaned.
        task: ``summarize``: documents without a target are dropped.
    """

    eval_fraction: float
    seed: int
    near_duplicate_threshold: float | None = 0.8
    max_document_characters: int = 1_000_000
    task: Literal["ocr", "summarize"] = "ocr"


class Intake:
    """The documents kept so far: lines in a spool, and a few bytes of each in memory.

    Args:
        scratch: a folder for files that are of no use at the end.

    Attributes:
        positions: of each kept document its number in [0, 1).
        evaluated: of each kept document 1 where it stands on the eval side.
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

    def take(self, document: Document, evaluated: Callable[[float], bool]) -> str | None:
        """Keep ``document`` and return None, or return the reason (``document_*``) why it is dropped.

        ``evaluated`` says on which side a document of a given position stands.
        """
        if not isinstance(document.text, str):
            return "document_not_text"
        titled = f"{document.title}\n\n{document.text}" if document.title and not document.pictures else document.text
        if len(titled) > self._settings.max_document_characters:
            return "document_too_long"
        text = clean_text(titled)
        if not text:
            return "document_empty"
        target = None
        if self._settings.task == "summarize":
            target = document.target if isinstance(document.target, str) else ""
            if len(target) > self._settings.max_document_characters:
                return "document_too_long"
            target = clean_text(target)
            if not target:
                return "document_without_target"
        return self._compare(document, titled, text, target, evaluated)

    def _compare(
        self, document: Document, titled: str, text: str, target: str | None, evaluated: Callable[[float], bool]
    ) -> str | None:
        own = fingerprint(text, self._settings.seed)
        side = evaluated(own.position)
        if match := self._index.admit(own):
            return self._copy(match, side)
        self.positions.append(own.position)
        self.evaluated.append(side)
        self.census.add(text)
        self.spool.append(_line(document, titled, text, target))
        return None

    def _copy(self, match: Match, evaluated: bool) -> str:
        reason = "document_duplicate" if match.kind == "exact" else "document_near_duplicate"
        return reason if evaluated == self.evaluated[match.number] else f"{reason}_across_splits"

    def _folded_text(self, place: int) -> str:
        return fold(read_record(self.spool.line(place))["text"])


def _line(document: Document, titled: str, text: str, target: str | None) -> bytes:
    unchanged = text == titled or (bool(document.title) and text.endswith(f"\n\n{document.text}"))
    pictures = tuple(
        PagePicture(picture.path, picture.page_index, clean_text(picture.text)) for picture in document.pictures
    )
    original_text = None if unchanged else document.text
    return document_line(document.source_id, text, original_text, document.lang, target, pictures)
