"""Cleans texts for drawing and labelling: no invisible characters, one normal form."""

import re
import unicodedata

import regex

_SCRIPTS_THAT_CONNECT = "Arab Syrc Mand Mong Nkoo Phag Adlm Rohg"
_SCRIPTS_WITH_CONJUNCTS = "Deva Beng Guru Gujr Orya Taml Telu Knda Mlym Sinh Mymr Khmr Java Bali Newa Tirh Cakm Lepc"


def _letters_of(scripts: str) -> str:
    """Return a regex set: the letters and marks of ``scripts`` (ISO 15924 codes), and tatweel, which has no script."""
    return r"[[\p{L}\p{M}]&&[\u0640" + "".join(rf"\p{{sc={script}}}" for script in scripts.split()) + "]]"


_CONNECTED = _letters_of(_SCRIPTS_THAT_CONNECT)
_SHAPED = _letters_of(f"{_SCRIPTS_THAT_CONNECT} {_SCRIPTS_WITH_CONJUNCTS}")
_VIRAMA = r"\p{ccc=9}"

_INVISIBLE = r"[[\p{C}\p{DI}]--[\p{PCM}\n]--[\u200C\u200D]]+"
"""Controls, format characters, surrogates, private use, unassigned and default-ignorable characters; but not the
prepended concatenation marks (U+06DD and others), which are format characters with a glyph."""
_NEVER_DRAWN = r"[[\p{Cc}\p{Cf}\p{Cs}\p{NChar}\p{DI}]--[\p{PCM}\n]--[\u200C\u200D]]+"
"""The same without private and unassigned characters, which a picture can show: letters of MUFI's private use
area in historical prints, or letters of a later Unicode version."""
_LINE_END = regex.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")
_OTHER_SPACE = regex.compile(r"[\p{Zs}--[ \u3000]]", regex.V1)
_DROPPED, _DROPPED_BESIDE_PICTURES = (regex.compile(pattern, regex.V1) for pattern in (_INVISIBLE, _NEVER_DRAWN))
_JOINER_RUN = regex.compile(r"([\u200C\u200D])[\u200C\u200D]+")
_MARK = r"[\P{ccc=0}\u0F73\u0F75\u0F81]"
# The neighbours of a joiner may be separated from it by marks, which normalisation may still reorder.
_JOINER_WITHOUT_EFFECT = regex.compile(
    rf"(?<!{_SHAPED}{_MARK}*)\u200C|\u200C(?!{_MARK}*{_SHAPED})"
    rf"|(?<![{_CONNECTED}{_VIRAMA}]{_MARK}*)\u200D(?!{_MARK}*{_CONNECTED})"
    rf"(?:(?!{_MARK}*{_SHAPED})|(?<!{_SHAPED}{_MARK}*\u200D))",
    regex.V1,
)
_MARK_RUN = regex.compile(rf"{_MARK}{{10}}")
_LETTER_WITH_MARK_RUN = regex.compile(rf"(?s:.)?{_MARK}{{10,}}")
_LINE_BREAKS = regex.compile(r"\n{3,}")


def _suspects() -> re.Pattern[str]:
    """Return a pattern for BMP characters that are invisible, spaces or combining marks, and for all beyond the BMP.

    ``re`` looks BMP characters up in a bitmap (7 µs per 2,000 characters; ``regex`` needs 20 µs to test properties) but
    compares others range by range, so all of those form one range here.
    """
    plane = "".join(map(chr, range(0x10000)))
    runs = regex.findall(rf"[[\p{{C}}\p{{DI}}\p{{Z}}{_MARK}]--[ \n\u3000]]+", plane, regex.V1)
    return re.compile(
        "[" + "".join(f"{re.escape(run[0])}-{re.escape(run[-1])}" for run in runs) + "\U00010000-\U0010ffff]"
    )


_SUSPECT = _suspects()


def clean_text(text: str, beside_picture: bool = False) -> str:
    """Return ``text`` as it will appear on a page, or, of a page that is taken as it is, as it is there.

    The result is in NFC. Line breaks of every kind (also form feed, U+0085, U+2028) become ``\\n``, three or more of
    them become two, and spaces at line ends are removed. A tab becomes four spaces, and every other space a plain one,
    except U+3000, which is as wide as a letter. Characters without a glyph are removed: controls, surrogates, private
    use, unassigned and default-ignorable ones. The joiners U+200C and U+200D stay only where they change a shape:
    between letters of a script that connects letters or forms conjuncts, and U+200D also beside a connecting letter or
    after a virama. A letter keeps at most 30 combining marks, as in Unicode's Stream-Safe Text Format (UAX 15).

    Args:
        beside_picture: the text is on a picture, so private-use and unassigned characters stay: it shows them.

    Cleaning is idempotent. The result may be empty.
    """
    if not text.isascii():
        suspect = _SUSPECT.search(text)
        text = _visible(text, beside_picture) if suspect else unicodedata.normalize("NFC", text)
    elif not text.replace("\n", " ").isprintable():
        text = _visible(text, beside_picture)
    if " \n" in text or "\u3000\n" in text:
        # Not a regex: on a run of spaces inside a line it would take quadratic time.
        text = "\n".join(line.rstrip(" \u3000") for line in text.split("\n"))
    if "\n\n\n" in text:
        text = _LINE_BREAKS.sub("\n\n", text)
    return text.strip(" \n\u3000")


def is_removed(character: str) -> bool:
    """Return whether ``clean_text`` removes this character, beside a picture, between two Latin letters.

    >>> is_removed("\u200b"), is_removed("-"), is_removed("\u3000"), is_removed("\u0378")
    (True, False, False, False)
    """
    return bool(_SUSPECT.match(character)) and clean_text(f"a{character}a", beside_picture=True) == "aa"


def _visible(text: str, beside_picture: bool) -> str:
    """Return ``text`` in NFC with plain spaces and line breaks, and without invisible characters."""
    text = _LINE_END.sub("\n", text).replace("\t", "    ")
    dropped = _DROPPED_BESIDE_PICTURES if beside_picture else _DROPPED
    text = _normalized(dropped.sub("", _OTHER_SPACE.sub(" ", text)))
    if "\u200c" in text or "\u200d" in text:
        text = _normalized(_JOINER_WITHOUT_EFFECT.sub("", _JOINER_RUN.sub(r"\1", text)))
    return text


def _normalized(text: str) -> str:
    if text.isascii():
        return text
    if _MARK_RUN.search(text):
        # CPython sorts marks in quadratic time: unicodedata needed 27 s for 200,000 marks on one letter.
        text = _LETTER_WITH_MARK_RUN.sub(lambda found: _first_marks(found[0]), text)
    return unicodedata.normalize("NFC", text)


def _first_marks(letter_and_marks: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", letter_and_marks[:31])[:31])
