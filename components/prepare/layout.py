"""Documents cut into pages: every page's label is exactly the text that is drawn on it.

This is the Pillow engine: one glyph per character, left to right. Text that needs shaping (right-to-left
scripts, combining marks) is not drawn wrongly but dropped and counted.
"""

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from components.prepare.config import PrepareConfig
from components.prepare.fonts import FontFace, sized_font
from components.prepare.page_geometry import is_clipped
from components.prepare.page_look import PageLook, page_look
from components.prepare.selection_old import CleanDocument
from components.shared.dataset_manifest import Split

ENGINE = "pillow-basic-1"

_BIDIRECTIONAL_RIGHT_TO_LEFT = {"R", "AL", "AN"}


@dataclass(frozen=True)
class Page:
    """One page before it is drawn; ``lines`` joined by line ends are its label."""

    split: Split
    source_id: str
    lang: str
    number: int
    pages: int
    """how many pages the document has, dropped ones among them"""
    lines: tuple[str, ...]
    face: int
    look: PageLook
    order: str
    """hex digest that puts the pages of all documents in one mixed, reproducible order"""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class DocumentPages:
    """The pages of one document, and how many of them were dropped for which reason."""

    pages: tuple[Page, ...]
    dropped: Counter[str]


def lay_out(document: CleanDocument, faces: list[FontFace], config: PrepareConfig) -> DocumentPages:
    """Cut ``document`` into pages.

    A page that no configured font covers is dropped as ``page_glyph_missing``, one that needs shaping as
    ``page_needs_shaping``, one with a letter that is wider or higher than the page as ``page_does_not_fit``.
    """
    digest = hashlib.sha256(f"{document.source_id}\n{document.text}".encode()).hexdigest()
    rest = _paragraphs(document.text, config.reflow)
    pages: list[Page] = []
    dropped: Counter[str] = Counter()
    number = 0
    while rest:
        number += 1
        look = page_look(config, len(faces), digest, number)
        face, lines, remaining, problem = _fill_page(rest, faces, look, config)
        if problem:
            dropped[problem] += 1
        else:
            order = hashlib.sha256(f"{config.seed}:{digest}:{number}".encode()).hexdigest()
            pages.append(
                Page(document.split, document.source_id, document.lang, number, 0, tuple(lines), face, look, order)
            )
        rest = remaining
    return DocumentPages(tuple(replace(page, pages=number) for page in pages), dropped)


def needs_shaping(text: str) -> bool:
    """Return whether drawing one glyph per character, left to right, would draw ``text`` wrongly."""
    return any(
        unicodedata.bidirectional(letter) in _BIDIRECTIONAL_RIGHT_TO_LEFT
        or unicodedata.category(letter) in ("Mn", "Mc", "Cf")
        for letter in text
    )


def _paragraphs(text: str, reflow: bool) -> list[list[str]]:
    blocks = text.split("\n\n") if reflow else text.split("\n")
    return [words for block in blocks if (words := block.split())]


def _fill_page(
    paragraphs: list[list[str]], faces: list[FontFace], look: PageLook, config: PrepareConfig
) -> tuple[int, list[str], list[list[str]], str | None]:
    """Fill one page with the first face that covers it; return face, lines, the rest, and why the page is dropped."""
    width = config.page_width - 2 * config.margin
    first: tuple[int, list[str], list[list[str]]] | None = None
    for face in look.font_order:
        lines, rest = _wrap(paragraphs, faces[face], look, width)
        if first is None:
            first = (face, lines, rest)
            if needs_shaping("".join(lines)):
                return *first, "page_needs_shaping"
        if not faces[face].missing("".join(lines)):
            clipped = is_clipped(lines, sized_font(faces[face].path, look.font_size), config)
            return face, lines, rest, "page_does_not_fit" if clipped else None
    assert first is not None
    return *first, "page_glyph_missing"


@lru_cache(maxsize=4096)
def _drawn_width(path: Path, size: int, line: str) -> float:
    font = sized_font(path, size)
    left, _, right, _ = font.getbbox(line)
    return max(right - min(left, 0), font.getlength(line))


@lru_cache(maxsize=65536)
def _advance(path: Path, size: int, word: str) -> float:
    return sized_font(path, size).getlength(word)


def _wrap(paragraphs: list[list[str]], face: FontFace, look: PageLook, width: int) -> tuple[list[str], list[list[str]]]:
    """Wrap words greedily into at most ``look.max_lines`` lines of ``width`` pixels; return lines and the rest."""
    lines: list[str] = []
    rest = list(paragraphs)
    while rest and len(lines) < look.max_lines:
        words = rest.pop(0)
        taken = _words_that_fit(words, face.path, look.font_size, width)
        if taken:
            line, left = " ".join(words[:taken]), words[taken:]
        else:
            line, end_of_word = _broken_word(words[0], face.path, look.font_size, width)
            left = [end_of_word, *words[1:]] if end_of_word else words[1:]
        lines.append(line)
        if left:
            rest.insert(0, left)
    return lines, rest


def _words_that_fit(words: list[str], path: Path, size: int, width: int) -> int:
    """Return how many of ``words`` one line holds: estimated from the words' advances, then measured."""
    space = _advance(path, size, " ")
    taken, advance = 0, 0.0
    while taken < len(words):
        advance += _advance(path, size, words[taken]) + (space if taken else 0)
        if advance > width:
            break
        taken += 1
    while taken and _drawn_width(path, size, " ".join(words[:taken])) > width:
        taken -= 1
    return taken


def _broken_word(word: str, path: Path, size: int, width: int) -> tuple[str, str]:
    """Return the longest start of ``word`` that fits (one letter at least) and the rest of it."""
    end = 1
    while end < len(word) and _drawn_width(path, size, word[: end + 1]) <= width:
        end += 1
    return word[:end], word[end:]
