"""The text that is drawn and labelled: nothing in it that cannot be seen, written in one way."""

import re
import unicodedata

import regex

_SCRIPTS_THAT_CONNECT = "Arab Syrc Mand Mong Nkoo Phag Adlm Rohg"
_SCRIPTS_WITH_CONJUNCTS = "Deva Beng Guru Gujr Orya Taml Telu Knda Mlym Sinh Mymr Khmr Java Bali Newa Tirh Cakm Lepc"


def _letters_of(scripts: str) -> str:
    """Return a regex set: the letters and marks of ``scripts`` (ISO 15924 codes) and tatweel, of no script."""
    return r"[[\p{L}\p{M}]&&[\u0640" + "".join(rf"\p{{sc={script}}}" for script in scripts.split()) + "]]"


_CONNECTED = _letters_of(_SCRIPTS_THAT_CONNECT)
_SHAPED = _letters_of(f"{_SCRIPTS_THAT_CONNECT} {_SCRIPTS_WITH_CONJUNCTS}")
_VIRAMA = r"\p{ccc=9}"

_INVISIBLE = r"[[\p{C}\p{DI}]--[\p{PCM}\n]--[\u200C\u200D]]+"
"""Controls, format characters, surrogates, private use, unassigned, and whatever Unicode calls default ignorable; not
the prepended concatenation marks (U+06DD and others), which are format characters that have a glyph."""
_LINE_END = regex.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")
_OTHER_SPACE = regex.compile(r"[\p{Zs}--[ \u3000]]", regex.V1)
_DROPPED = regex.compile(_INVISIBLE, regex.V1)
_JOINER_RUN = regex.compile(r"([\u200C\u200D])[\u200C\u200D]+")
_MARK = r"[\P{ccc=0}\u0F73\u0F75\u0F81]"
# A joiner's neighbours are looked for among all marks beside it: normalisation may still put those in another order.
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
    """Return what finds a character of the BMP that is invisible, a space or a combining mark, or any beyond the BMP.

    ``re`` looks a character of the BMP up in a bitmap (7 µs per 2,000 characters; ``regex`` tests the properties in
    20 µs), but compares one beyond it range by range; so those are one range here.
    """
    plane = "".join(map(chr, range(0x10000)))
    runs = regex.findall(rf"[[\p{{C}}\p{{DI}}\p{{Z}}{_MARK}]--[ \n\u3000]]+", plane, regex.V1)
    return re.compile(
        "[" + "".join(f"{re.escape(run[0])}-{re.escape(run[-1])}" for run in runs) + "\U00010000-\U0010ffff]"
    )


_SUSPECT = _suspects()


def clean_text(text: str) -> str:
    """Return ``text`` as it will be seen on a page.

    The result is in NFC. Line ends of every kind (also form feed, U+0085, U+2028) are ``\\n``; three or more of them
    become two, and lines do not end in spaces. A tab is four spaces; every other space a plain one, but U+3000 stays,
    which is as wide as a letter. Characters without a glyph are dropped: controls, surrogates, private use, unassigned
    and default-ignorable ones. The joiners U+200C and U+200D stay only where they change a shape: between letters of a
    script that connects letters or forms conjuncts, and U+200D also beside a connecting letter or after a virama.
    A letter keeps at most 30 combining marks, as in Unicode's Stream-Safe Text Format (UAX 15).

    Cleaning twice gives what cleaning once gives. The result may be empty.
    """
    if not text.isascii():
        text = _visible(text) if _SUSPECT.search(text) else unicodedata.normalize("NFC", text)
    elif not text.replace("\n", " ").isprintable():
        text = _visible(text)
    if " \n" in text or "\u3000\n" in text:
        # Not a regex: spaces before something else than a line end would be tried from each of them, in square time.
        text = "\n".join(line.rstrip(" \u3000") for line in text.split("\n"))
    if "\n\n\n" in text:
        text = _LINE_BREAKS.sub("\n\n", text)
    return text.strip(" \n\u3000")


def _visible(text: str) -> str:
    """Return ``text`` in NFC with plain spaces and line ends, and without invisible characters."""
    text = _LINE_END.sub("\n", text).replace("\t", "    ")
    text = _normalized(_DROPPED.sub("", _OTHER_SPACE.sub(" ", text)))
    if "\u200c" in text or "\u200d" in text:
        text = _normalized(_JOINER_WITHOUT_EFFECT.sub("", _JOINER_RUN.sub(r"\1", text)))
    return text


def _normalized(text: str) -> str:
    if text.isascii():
        return text
    if _MARK_RUN.search(text):
        # Sorting marks takes square time in CPython: 200,000 of them on one letter kept unicodedata busy for 27 s.
        text = _LETTER_WITH_MARK_RUN.sub(lambda found: _first_marks(found[0]), text)
    return unicodedata.normalize("NFC", text)


def _first_marks(letter_and_marks: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", letter_and_marks[:31])[:31])
