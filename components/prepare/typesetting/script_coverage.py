"""Finds scripts in the documents that no font can draw, and suggests fonts for them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fontTools import unicodedata

from components.prepare.typesetting.font_files import known_font_files, named_faces
from components.prepare.typesetting.fonts import FontFace, covered_code_points, find_fonts
from components.shared.errors import UserError

_OF_NO_SCRIPT = ("Zyyy", "Zinh", "Zzzz")
_EXAMPLES = 8
_CJK_SCRIPTS = {"Bopo", "Hang", "Hani", "Hira", "Kana"}
_CJK_PACKAGES = "fonts-wqy-microhei, or fonts-noto-cjk for each country's own forms,"
_PACKAGE_OF_MOST = "fonts-noto-core"
# From the cmap tables of fonts-noto-core 20201225-1, which covers all other scripts of Unicode 17.
_NOT_IN_NOTO_CORE = {"Chrs", "Cpmn", "Diak", "Kits", "Maka", "Nand", "Ougr", "Tnsa", "Toto", "Vith"}


class UncoveredScript(NamedTuple):
    """A script with at least half of its used letters missing from all configured fonts.

    Attributes:
        name: in English, e.g. ``"Devanagari"``.
        documents: number of documents that contain its letters.
        script: its ISO 15924 code, e.g. ``"Deva"``.
        letters: the letters without a glyph, in code point order.
    """

    name: str
    documents: int
    script: str
    letters: str


def check_scripts(
    scripts: Mapping[str, int],
    characters: Mapping[str, str],
    faces: Sequence[FontFace],
) -> list[UncoveredScript]:
    """Return the scripts that the fonts cannot draw, sorted by falling number of documents.

    A script counts as uncovered if no face has a glyph for at least half of its letters in ``characters``. If fewer are
    missing (a rare ideograph), only the pages that contain them are dropped and counted.

    Args:
        scripts: ISO 15924 code -> number of documents that use it.
        characters: ISO 15924 code -> all of its characters that the documents use.
    """
    covered = frozenset[int]().union(*(covered_code_points(face) for face in faces))
    found = []
    for script, count in scripts.items():
        letters = sorted(letter for letter in set(characters.get(script, "")) if letter.isalpha())
        without = [letter for letter in letters if ord(letter) not in covered]
        if script not in _OF_NO_SCRIPT and without and 2 * len(without) >= len(letters):
            found.append(UncoveredScript(script_name(script), count, script, "".join(without)))
    return sorted(found, key=lambda uncovered: (-uncovered.documents, uncovered.script))


def script_name(script: str) -> str:
    """Return a script's English name, e.g. ``"Devanagari"`` for ``"Deva"``."""
    return str(unicodedata.script_name(script)).replace("_", " ")


def scripts_error(uncovered: Sequence[UncoveredScript], documents: int) -> UserError:
    """Return the error that lists the scripts without a font and where to get a font for each."""
    listed = ", ".join(
        f"{script.name} ({script.documents} of {documents} documents, e.g. {' '.join(script.letters[:_EXAMPLES])})"
        for script in uncovered
    )
    mends = ", ".join(f"for {script.name} {_where_a_font_is(script)}" for script in uncovered)
    return UserError(f"no font covers {listed}", where="fonts", mend=mends)


def _where_a_font_is(uncovered: UncoveredScript) -> str:
    needed = {ord(letter) for letter in uncovered.letters}
    faces = (face for path in known_font_files() for face in named_faces(path)[:1])
    for face in sorted(faces, key=lambda face: face.strangeness):
        try:
            if needed <= covered_code_points(FontFace(face.path)) and find_fonts([str(face.path)]):
                return f"add {face.path.name!r} to fonts"
        except UserError:  # a damaged font, or one without letters, does not help
            continue
    if uncovered.script in _CJK_SCRIPTS:
        return f"install Debian's {_CJK_PACKAGES} and add the font to fonts"
    if uncovered.script in _NOT_IN_NOTO_CORE:
        return "add a font of your own to fonts"
    return f"install Debian's {_PACKAGE_OF_MOST} and add 'Noto Sans {uncovered.name}' to fonts"
