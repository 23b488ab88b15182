"""Examines single documents before they are compared with others; worker processes share this work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.prepare.documents.cleaning import clean_text
from components.prepare.documents.document import Document, Unreadable
from components.prepare.documents.drop_reasons import DropReason
from components.prepare.selection.document_store import document_line
from components.prepare.selection.fingerprint import fingerprint
from components.prepare.selection.near_duplicates import minhash_signature


@dataclass(frozen=True)
class SelectionSettings:
    """How documents are selected.

    Attributes:
        eval_fraction: share of the documents that is held out, in [0, 1); ignored if there is a holdout.
        seed: seed of the split and of MinHash.
        near_duplicate_threshold: documents with at least this Jaccard similarity of five-word shingles are copies, in
            (0, 1]; None: only equal texts are copies.
        max_document_characters: documents with more characters, including the title, are dropped before cleaning.
        task: ``summarize``: documents without a target are dropped.
    """

    eval_fraction: float
    seed: int
    near_duplicate_threshold: float | None = 0.8
    max_document_characters: int = 1_000_000
    task: Literal["ocr", "summarize"] = "ocr"


@dataclass(frozen=True)
class Candidate:
    """A cleaned document with a text, and the values used to compare it.

    Attributes:
        line: the document as ``document_line`` stores it.
        digest, position: those of its fingerprint.
        signature: its MinHash; None if near copies are not searched for.
        letters: the distinct characters of its text that must be drawn; none for page pictures.
    """

    line: bytes
    digest: bytes
    position: float
    signature: NDArray[np.uint32] | None
    letters: str


Examined = Candidate | Unreadable
"""A document that can be kept, or what is dropped, with the reason."""


@dataclass(frozen=True)
class ExaminationTask:
    """A batch of documents of one source, in order."""

    documents: Sequence[Document | Unreadable]
    settings: SelectionSettings


def examine_all(task: ExaminationTask) -> list[Examined]:
    """Return the examined documents of the task, in order."""
    return [_examined(document, task.settings) for document in task.documents]


def _examined(document: Document | Unreadable, settings: SelectionSettings) -> Examined:
    if isinstance(document, Unreadable):
        return document
    result = examine(document, settings)
    return Unreadable(document.source_id, "", result) if isinstance(result, str) else result


def examine(document: Document, settings: SelectionSettings) -> Candidate | DropReason:
    """Return the document as a candidate, or the reason for dropping it."""
    if not isinstance(document.text, str):
        return "document_not_text"
    titled = f"{document.title}\n\n{document.text}" if document.title and not document.pictures else document.text
    if len(titled) > settings.max_document_characters:
        return "document_too_long"
    text = clean_text(titled, beside_picture=bool(document.pictures))
    if not text:
        return "document_empty"
    target = None
    if settings.task == "summarize":
        target = document.target if isinstance(document.target, str) else ""
        if len(target) > settings.max_document_characters:
            return "document_too_long"
        target = clean_text(target)
        if not target:
            return "document_without_target"
    own = fingerprint(text, settings.seed)
    near = settings.near_duplicate_threshold is not None
    return Candidate(
        line=_line(document, titled, text, target),
        digest=own.digest,
        position=own.position,
        signature=minhash_signature(own.folded, settings.seed) if near else None,
        # Pages that exist as pictures need no font.
        letters="" if document.pictures else "".join(set(text)),
    )


def _line(document: Document, titled: str, text: str, target: str | None) -> bytes:
    unchanged = text == titled or (bool(document.title) and text.endswith(f"\n\n{document.text}"))
    pictures = tuple(
        replace(picture, text=clean_text(picture.text, beside_picture=True)) for picture in document.pictures
    )
    original_text = None if unchanged else document.text
    return document_line(document.source_id, text, original_text, document.lang, target, pictures)
