"""Which documents are kept, and on which side of the split each one stands."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from components.prepare.sources.document import Document
from components.shared.dataset_manifest import Split


@dataclass(frozen=True)
class CleanDocument:
    """A document that will be drawn: normalised text that is not empty, on one side of the split."""

    source_id: str
    text: str
    lang: str
    split: Split


def select_documents(
    documents: Iterable[Document], eval_fraction: float, seed: int
) -> tuple[list[CleanDocument], Counter[str]]:
    """Clean, deduplicate and split ``documents``; return the kept ones and the counts of the dropped ones by reason.

    A document goes to ``eval`` when the hash of the seed and its text, as a number in [0, 1), is below
    ``eval_fraction``: its side does not change when other documents come or go. Where that leaves one side empty
    although there are two documents, the one with the lowest hash is moved to it.
    """
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    kept: list[tuple[float, Document, str]] = []
    for document in documents:
        if not isinstance(document.text, str):
            dropped["document_not_text"] += 1
            continue
        text = clean_text(document.text if not document.title else f"{document.title}\n\n{document.text}")
        if not text:
            dropped["document_empty"] += 1
            continue
        fingerprint = " ".join(text.casefold().split())
        if fingerprint in seen:
            dropped["document_duplicate"] += 1
            continue
        seen.add(fingerprint)
        kept.append((_position(f"{seed}:{fingerprint}"), document, text))
    evaluated = _evaluated_positions([position for position, _, _ in kept], eval_fraction)
    return [
        CleanDocument(document.source_id, text, document.lang, "eval" if position in evaluated else "train")
        for position, document, text in kept
    ], dropped


def clean_text(text: str) -> str:
    """Return ``text`` in NFC without control characters; tabs become four spaces, line ends ``\\n``."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    "))
    return "".join(
        letter for letter in text if letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cs", "Co", "Cn")
    ).strip()


def _evaluated_positions(positions: list[float], eval_fraction: float) -> set[float]:
    evaluated = {position for position in positions if position < eval_fraction}
    if eval_fraction > 0 and len(positions) > 1:
        if not evaluated:
            evaluated = {min(positions)}
        elif len(evaluated) == len(positions):
            evaluated.discard(max(positions))
    return evaluated


def _position(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64


def lowest(limit: int | None, orders: list[str]) -> set[str]:
    """Return the ``limit`` lowest of ``orders`` (hex digests): an even pick that more documents disturb little."""
    return set(orders if limit is None else sorted(orders)[:limit])
