"""Compares texts, and computes the number that decides a document's side of the split."""

import hashlib
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Fingerprint:
    """A text reduced to what distinguishes documents.

    Attributes:
        folded: the text in NFKC, case-folded, its words separated by single spaces.
        digest: sha256 of the seed and ``folded``; equal for equal texts.
    """

    folded: str
    digest: bytes

    @property
    def position(self) -> float:
        """The digest as a number in [0, 1); below ``eval_fraction`` the document goes to the eval split."""
        return int.from_bytes(self.digest[:8], "big") / 2**64


def fingerprint(text: str, seed: int) -> Fingerprint:
    """Return the fingerprint of a cleaned text."""
    folded = fold(text)
    return Fingerprint(folded, hashlib.sha256(f"{seed}:{folded}".encode()).digest())


def fold(text: str) -> str:
    """Return ``text`` in NFKC, case-folded (Unicode's toNFKC_Casefold, D146), white space runs as single spaces."""
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())
