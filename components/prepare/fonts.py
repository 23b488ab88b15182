"""Font files: where they are found, and which characters they can draw."""

import importlib.util
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import ImageFont

from components.shared.errors import UserError

_SUFFIXES = (".ttf", ".otf")
_SYSTEM_FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts").expanduser(),
    Path("~/.fonts").expanduser(),
    Path("/Library/Fonts"),
    Path("/System/Library/Fonts"),
)


@dataclass(frozen=True)
class FontFace:
    """One font file; its coverage is read once per process, so that a face is cheap to send to another one."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    def missing(self, text: str) -> set[str]:
        """Return the characters of ``text`` that this font has no glyph for; line ends need none."""
        covered = covered_code_points(self.path)
        return {letter for letter in set(text) if letter != "\n" and ord(letter) not in covered}


@cache
def covered_code_points(path: Path) -> frozenset[int]:
    """Return the code points that a font file has glyphs for.

    Raises:
        UserError: the file is no font.
    """
    try:
        with TTFont(path, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except Exception as error:  # fontTools raises whatever a broken table leads to
        raise UserError(f"not a readable font ({error})", where=f"fonts {str(path)!r}") from error


def find_fonts(names: list[str]) -> list[FontFace]:
    """Return the faces of font files, folders and font file names, in the given order.

    A name is looked up among the fonts that matplotlib carries, then in the machine's font folders.

    Raises:
        UserError: a name that is not found, a folder without fonts, or a file that is no font.
    """
    faces = [FontFace(path) for name in names for path in _font_files(name)]
    for face in faces:
        covered_code_points(face.path)
    return faces


@lru_cache(maxsize=512)
def sized_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """Return a font at ``size`` pixels, without shaping: one glyph per character, as ``missing`` checked."""
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _font_files(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise UserError("the folder holds no .ttf or .otf file", where=f"fonts {name!r}")
        return files
    if path.is_file():
        return [path]
    for folder in _font_folders():
        found = sorted(folder.rglob(name)) if folder.is_dir() and path.name == name else []
        if found:
            return [found[0]]
    raise UserError(
        "no such font",
        where=f"fonts {name!r}",
        mend="give a path, or a file name such as DejaVuSansMono.ttf from matplotlib or the machine's font folders",
    )


def _font_folders() -> list[Path]:
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib and matplotlib.origin:
        return [Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf", *_SYSTEM_FOLDERS]
    return list(_SYSTEM_FOLDERS)
