"""How label and prediction are normalised before they are compared: named, versioned profiles.

A published profile never changes; a change is a new version, so that old reports stay comparable. A report names the
version; in a config, a name without a version means the newest one.
"""

import unicodedata
from collections.abc import Callable
from typing import Any, Literal, get_args

Profile = Literal["none-v1", "nfc-v1", "nfkc-ws-v1", "lenient-v1"]
PROFILES: tuple[Profile, ...] = get_args(Profile)

MEANINGS: dict[Profile, str] = {
    "none-v1": "nothing",
    "nfc-v1": "Unicode NFC",
    "nfkc-ws-v1": "Unicode NFKC, runs of white space become one space, ends stripped",
    "lenient-v1": "Unicode NFKC and case folding, typographic quotes, dashes and bullets become ', \" and -, invisible "
    "characters (soft hyphens, zero-width and direction marks) are dropped, runs of white space become one space, "
    "ends stripped",
}
"""What each profile does, in the words of a report."""

_DOUBLE_QUOTES = "“”„‟«»″〝〞〟❝❞"
_SINGLE_QUOTES = "‘’‚‛‹›′`´ʼ❛❜"
_BULLETS = "•‣⁃◦∙·▪●"
_MINUS_SIGN = "\N{MINUS SIGN}"
_FOLDED = (
    dict.fromkeys(map(ord, _DOUBLE_QUOTES), '"')
    | dict.fromkeys(map(ord, _SINGLE_QUOTES), "'")
    | dict.fromkeys(map(ord, _BULLETS + _MINUS_SIGN), "-")
)


def newest_version(profile: Any) -> Any:
    """Return the newest version of a profile given without a version; any other value unchanged.

    >>> newest_version("lenient"), newest_version("nfc-v1"), newest_version("no such")
    ('lenient-v1', 'nfc-v1', 'no such')
    """
    versions = [name for name in PROFILES if isinstance(profile, str) and name.rpartition("-v")[0] == profile]
    return max(versions, key=lambda name: int(name.rpartition("-v")[2]), default=profile)


def normalizer(profile: Profile) -> Callable[[str], str]:
    """Return the function of a profile.

    - ``none-v1``: the text as it is.
    - ``nfc-v1``: Unicode NFC, so that composed and decomposed accents are equal.
    - ``nfkc-ws-v1``: Unicode NFKC (ligatures, full-width forms and the like become plain characters), every run
      of white space becomes one space, and none is left at the ends. Case and punctuation count.
    - ``lenient-v1``: for texts whose typography does not matter. Like ``nfkc-ws-v1``, and also: case is folded, all
      kinds of quotes, dashes and bullets become ``'``, ``"`` and ``-``, and invisible characters (Unicode category
      Cf) are dropped. Words and other punctuation count.

    >>> normalizer("nfkc-ws-v1")(" \\ufb01ne\\n\\n print ")
    'fine print'
    >>> normalizer("lenient-v1")("«Fine\\u00ad» – PRINT…")
    '"fine" - print...'
    """
    return _FUNCTIONS[profile]


def _nfkc_one_space(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _lenient(text: str) -> str:
    # Signs first: NFKC splits ´ and ″ into a space and an accent, or into two signs.
    signs = "".join(_sign(character) for character in text.translate(_FOLDED))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", signs).casefold())
    # Case folding and NFKC can produce new signs and letters (full-width quotes, presentation forms).
    again = "".join(_sign(character) for character in folded.translate(_FOLDED))
    return " ".join(unicodedata.normalize("NFKC", again).split())


def _sign(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    return "" if category == "Cf" else "-" if category == "Pd" else character


_FUNCTIONS: dict[Profile, Callable[[str], str]] = {
    "none-v1": lambda text: text,
    "nfc-v1": lambda text: unicodedata.normalize("NFC", text),
    "nfkc-ws-v1": _nfkc_one_space,
    "lenient-v1": _lenient,
}
