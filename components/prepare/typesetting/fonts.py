"""Fonts: resolves configured names, checks the files, and reads which characters they cover."""

import contextlib
import difflib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from fontTools.ttLib.sfnt import calcChecksum
from PIL import ImageFont

from components.prepare.typesetting.font_files import (
    FONT_SUFFIXES,
    collection_size,
    faces_called,
    files_below,
    known_font_files,
    machine_font_files,
    named_faces,
)
from components.shared.errors import UserError

log = logging.getLogger(__name__)

SYSTEM = "system"
"""the name for all text fonts of the machine"""

_OUTLINE_TABLES = ("glyf", "CFF ", "CFF2")
_GROUPED_CMAP_FORMATS = (12, 13)
_CODE_POINTS = 0x110000
_LETTERS_PER_GLYPH = 8  # Last Resort has 573; none of 547 other files had more than 1.1
_TRIED_LETTERS = 16
_TRIED_SIZE = 24


@dataclass(frozen=True)
class FontFace:
    """One face of a font file; its coverage is cached per process, so a face is cheap to send to another process.

    Attributes:
        path: the font file, absolute.
        index: number of the face in a collection (.ttc, .otc); 0 for other files.
    """

    path: Path
    index: int = 0

    @property
    def name(self) -> str:
        return f"{self.path.stem}#{self.index}" if self.index else self.path.stem


class _NotForTextError(Exception):
    """A valid font that draws no letters: symbols, or colour pictures."""


def find_fonts(names: Sequence[str]) -> list[FontFace]:
    """Return the faces that ``names`` stand for, in that order, without repetition; each is checked.

    If two files have the same name (apart from suffix and folder), the first is kept and the other is logged.

    A name is one of:

    - a file: .ttf, .otf, .ttc or .otc. A collection gives its first face (Noto Sans CJK: the Japanese forms);
      ``FILE#2`` gives the third (there: the simplified Chinese forms);
    - a folder: every font file below it, and the first face of collections. Fonts without letters are skipped and
      logged;
    - a file name, a family name or a face's full name, e.g. ``DejaVuSans.ttf`` or ``Noto Sans Devanagari``: looked up
      in matplotlib, in other Python packages (entry points ``fonts_ttf`` and ``fonts_otf``), then in the machine's
      font folders. A family gives its regular upright face. No similar font is substituted;
    - ``system``: every text font of the machine.

    Raises:
        UserError: a name is not found, a folder has no text fonts, a font is damaged, or a named font draws no letters.
    """
    by_name: dict[str, FontFace] = {}
    for face in (face for name in names for face in _faces_of(name)):
        kept = by_name.setdefault(face.name, face)
        if kept != face:
            log.warning("font %s is skipped: %s has the same name in labels and manifest", face.path, kept.path)
    return list(by_name.values())


@cache
def covered_code_points(face: FontFace) -> frozenset[int]:
    """Return the code points that a face has glyphs for.

    Raises:
        UserError: the file is not a font.
    """
    with _opened(face) as font:
        return frozenset(_glyphs(font))


def _faces_of(name: str) -> list[FontFace]:
    if name == SYSTEM:
        return _text_faces(name, machine_font_files(), refuse_damaged=False)
    path, index = _path_and_index(name)
    if path.is_dir():
        return _text_faces(name, files_below(path), refuse_damaged=True)
    face = FontFace(path.absolute(), index) if path.is_file() else _looked_up(name, index)
    try:
        _check(face)
    except _NotForTextError as error:
        raise UserError(f"the font {error}", where=f"fonts {name!r}", mend="name a font with letters") from error
    return [face]


def _path_and_index(name: str) -> tuple[Path, int]:
    if not name.strip() or "\0" in name:
        raise UserError("not a font name", where=f"fonts {name!r}")
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~nobody
        path = Path(name)
    numbered = re.fullmatch(r"(.+)#([0-9]{1,5})", str(path))
    if numbered and not path.exists():
        return Path(numbered[1]), int(numbered[2])
    return path, 0


def _text_faces(name: str, files: list[Path], refuse_damaged: bool) -> list[FontFace]:
    """Return the first face of each file; log the files that are skipped."""
    faces, left_out = [], []
    for face in (FontFace(file.absolute()) for file in files):
        try:
            _check(face)
        except _NotForTextError as error:
            left_out.append(f"{face.name} ({error})")
        except UserError as error:
            if refuse_damaged:
                raise
            left_out.append(f"{face.name} ({error.problem})")
        else:
            faces.append(face)
    if left_out:
        log.warning("fonts %r: %d files are skipped: %s", name, len(left_out), ", ".join(left_out))
    if not faces:
        kinds = ", ".join(FONT_SUFFIXES)
        raise UserError(f"holds no font with letters ({kinds})", where=f"fonts {name!r}")
    return faces


def _looked_up(name: str, index: int) -> FontFace:
    file_name = name.rpartition("#")[0] if index else name
    for path in known_font_files():
        if path.name == file_name:
            return FontFace(path.absolute(), index)
    for face in faces_called(name):
        return FontFace(face.path.absolute(), face.index)
    near = _similar_names(name)
    raise UserError(
        f"no such font{near}",
        where=f"fonts {name!r}",
        mend="give a path, or the name of a file such as DejaVuSans.ttf or of a family such as Noto Sans Devanagari "
        "from a Python package or the machine's font folders",
    )


def _similar_names(name: str) -> str:
    known = {}
    for path in known_font_files():
        known[path.name.casefold()] = path.name
        known.update({called.casefold(): called for face in named_faces(path) for called in face.names})
    close = difflib.get_close_matches(name.casefold(), sorted(known), n=3, cutoff=0.75)
    return f" (similar: {', '.join(known[found] for found in close)})" if close else ""


def _check(face: FontFace) -> None:
    """Check the face before native code (FreeType, HarfBuzz, Pango) draws with it.

    A wrong checksum means damage: in 547 font files on a Debian machine, only the head tables of collections had wrong
    ones.

    Raises:
        UserError: it is not a font, or is damaged.
        _NotForTextError: it draws no letters.
    """
    with _opened(face) as font:
        if font.flavor:
            raise _damaged(face, f"a web font ({font.flavor})", "convert it to .ttf or .otf")
        if wrong := _tables_with_wrong_checksums(font):
            mend = "get the font again; if its maker ships it like this, load and save it with fontTools"
            raise _damaged(face, f"the font is damaged: checksum of table {', '.join(wrong)}", mend)
        if not any(table in font for table in _OUTLINE_TABLES):
            raise _NotForTextError("has pictures instead of outlines")
        glyphs = _glyphs(font)
    letters = sorted(point for point in glyphs if chr(point).isalpha())
    if not letters:
        raise _NotForTextError("has symbols and no letters")
    if len({glyphs[letter] for letter in letters}) * _LETTERS_PER_GLYPH < len(letters):
        raise _NotForTextError("draws the same glyph for many letters, as last-resort fonts do")
    if not _draws(face, letters[:: -(-len(letters) // _TRIED_LETTERS)]):
        raise _NotForTextError("draws nothing for its letters")


def _draws(face: FontFace, letters: list[int]) -> bool:
    """Return whether FreeType draws anything for any of ``letters``."""
    try:
        font = ImageFont.truetype(str(face.path), _TRIED_SIZE, index=face.index, layout_engine=ImageFont.Layout.BASIC)
        return any(font.getmask(chr(letter)).getbbox() for letter in letters)
    except (OSError, ValueError, MemoryError) as error:
        raise _damaged(face, f"FreeType cannot draw with the font ({error})") from error


@contextlib.contextmanager
def _opened(face: FontFace) -> Iterator[TTFont]:
    try:
        size = collection_size(face.path)
        if face.index >= max(size, 1):
            raise _damaged(face, f"the file holds {size} fonts, there is no number {face.index}", "count from 0")
        with TTFont(face.path, fontNumber=face.index, lazy=True) as font:
            yield font
    except (UserError, _NotForTextError):
        raise
    except Exception as error:  # fontTools raises almost any exception for broken tables
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise _damaged(face, f"not a readable font ({reason})") from error


def _damaged(face: FontFace, problem: str, mend: str | None = None) -> UserError:
    where = f"{face.path}#{face.index}" if face.index else str(face.path)
    return UserError(problem, where=f"font file {where!r}", mend=mend)


def _tables_with_wrong_checksums(font: TTFont) -> list[str]:
    """Return the tables whose checksum is wrong (OpenType specification, "Calculating checksums")."""
    of_collection = hasattr(font.reader, "numFonts")
    wrong = []
    for tag, entry in font.reader.tables.items():
        data = font.reader[tag]
        if tag == "head":
            if of_collection:  # its checkSumAdjustment is undefined there, and makers write anything
                continue
            data = data[:8] + bytes(4) + data[12:]
        if calcChecksum(data) != entry.checkSum:
            wrong.append(str(tag))
    return wrong


def _glyphs(font: TTFont) -> dict[int, str]:
    """Return code point -> glyph name."""
    for table in font["cmap"].tables:
        if table.format in _GROUPED_CMAP_FORMATS and table.data is not None:
            groups = np.frombuffer(table.data, ">u4").reshape(-1, 3).astype(np.int64)
            # A few bytes can claim billions of code points, and fontTools would list them one by one.
            if (groups[:, 1] - groups[:, 0] + 1).sum() > _CODE_POINTS or (groups[:, 1] >= _CODE_POINTS).any():
                raise ValueError("the cmap table claims code points that do not exist")
    return dict(font.getBestCmap() or {})
