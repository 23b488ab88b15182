"""Counts the scripts and characters that documents use, to check that the fonts cover them."""

from array import array
from collections import Counter

import numpy as np
from fontTools.unicodedata import Scripts

CODE_POINTS = 0x110000
OF_NO_SCRIPT = ("Zinh", "Zyyy", "Zzzz")
"""ISO 15924: inherited, common (digits, punctuation, spaces), unknown."""


class ScriptCensus:
    """Counts scripts over documents; uses 2 MB of memory and four bytes per document."""

    def __init__(self) -> None:
        codes = sorted(set(Scripts.VALUES))
        lengths = np.diff([*Scripts.RANGES, CODE_POINTS])
        self._codes = codes
        self._script_of = np.repeat(np.array([codes.index(code) for code in Scripts.VALUES], dtype=np.uint8), lengths)
        self._seen = np.zeros(CODE_POINTS, dtype=bool)
        self._combinations: dict[bytes, int] = {}
        self._documents = array("I")

    def add(self, text: str) -> None:
        """Count the next document; ``text`` must not contain surrogates."""
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        self._seen[points] = True
        used = np.bincount(self._script_of[points], minlength=len(self._codes)) > 0
        self._documents.append(self._combinations.setdefault(used.tobytes(), len(self._combinations)))

    def documents_by_script(self, kept: np.ndarray) -> Counter[str]:
        """Return, for each ISO 15924 code, how many of the documents in the mask ``kept`` use a character of it."""
        amounts = np.bincount(np.frombuffer(self._documents, dtype=np.uint32)[kept], minlength=len(self._combinations))
        counted: Counter[str] = Counter()
        for combination, amount in zip(self._combinations, amounts.tolist(), strict=True):
            for index in np.flatnonzero(np.frombuffer(combination, dtype=bool)):
                if amount and self._codes[index] not in OF_NO_SCRIPT:
                    counted[self._codes[index]] += amount
        return counted

    def characters_by_script(self) -> dict[str, str]:
        """Return ISO 15924 code -> the distinct characters of all documents, in code point order."""
        points = np.flatnonzero(self._seen)
        scripts = self._script_of[points]
        return {
            self._codes[index]: "".join(map(chr, points[scripts == index].tolist())) for index in np.unique(scripts)
        }
