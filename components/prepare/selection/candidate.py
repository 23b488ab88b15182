"""What one document is on its own, before it is compared with others: the work that processes share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.prepare.selection.cleaning import clean_text
from components.prepare.selection.document_store import document_line
from components.prepare.selection.fingerprint import fingerprint
from components.prepare.selection.near_duplicates import minhash_signature
from components.prepare.sources.document import Document, PagePicture, Unreadable


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


@dataclass(frozen=True)
class Candidate:
    """A cleaned document that has a text, and what it is compared by.

    Attributes:
        line: as ``document_line`` stores it.
        digest, position: its fingerprint's.
        signature: its MinHash; None where near copies are not looked for.
        letters: each character of its text, once.
    """

    line: bytes
    digest: bytes
    position: float
    signature: NDArray[np.uint32] | None
    letters: str


Examined = Candidate | Unreadable | str
"""A document that can be kept, what could not be read, or the reason (``document_*``) why it is dropped."""


@dataclass(frozen=True)
class ExaminationTask:
    """Some documents of one source, in order."""

    documents: Sequence[Document | Unreadable]
    settings: SelectionSettings


def examine_all(task: ExaminationTask) -> list[Examined]:
    """Return what each document of the task is."""
    return [
        document if isinstance(document, Unreadable) else examine(document, task.settings)
        for document in task.documents
    ]


def examine(document: Document, settings: SelectionSettings) -> Candidate | str:
    """Return the document as a candidate, or the reason why it is dropped."""
    if not isinstance(document.text, str):
        return "document_not_text"
    titled = f"{document.title}\n\n{document.text}" if document.title and not document.pictures else document.text
    if len(titled) > settings.max_document_characters:
        return "document_too_long"
    text = clean_text(titled)
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
        letters="".join(set(text)),
    )


def _line(document: Document, titled: str, text: str, target: str | None) -> bytes:
    unchanged = text == titled or (bool(document.title) and text.endswith(f"\n\n{document.text}"))
    pictures = tuple(
        PagePicture(picture.path, picture.page_index, clean_text(picture.text)) for picture in document.pictures
    )
    original_text = None if unchanged else document.text
    return document_line(document.source_id, text, original_text, document.lang, target, pictures)
