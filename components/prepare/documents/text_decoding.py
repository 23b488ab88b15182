"""Decodes foreign bytes with the configured encoding, and names the likely one if that fails."""

import codecs
import re

from charset_normalizer import from_bytes

UTF_8 = "utf-8"

_SAMPLE_BYTES = 32_768
_LEAST_WIDE_BYTES = 32
_WIDE = ("utf_16", "utf_16_le", "utf_16_be", "utf_32")
_LIKELY = (
    *("utf_8", "cp932", "euc_jp", "gb18030", "big5", "cp949", "cp1252", "cp1250", "cp1251", "koi8_r"),
    *("cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
)
"""The encodings of texts in circulation; a choice among all of Python's hundred names rare ones too often."""
_SHIFT = b"\x1b$"
"""ISO 2022 starts two-byte characters with this; to a UTF-8 decoder they are plain ASCII."""


_KANA = 0.2
_NOT_WESTERN = re.compile(r"[^\W\d_](?:[^\w\s\x00-\x7f’\xad·]|[¹²³¼½¾])+[^\W\d_]|[£¥¤¢¯¨´¸¦][^\W\d_]|[^\x00-\x7f]{4}")
"""In a word a sign or a small digit, a currency or an accent before a letter, or four letters in a row beyond ASCII."""


class WrongEncodingError(Exception):
    """A text is not in the configured encoding; the message names the likely one."""


def decode_text(content: bytes, encoding: str = UTF_8) -> str:
    """Return ``content`` as text without a byte order mark.

    Raises:
        WrongEncodingError: it is not in ``encoding``, or is UTF-16, UTF-32 or ISO 2022 that would pass as UTF-8.
    """
    try:
        text = content.decode("utf-8-sig" if is_utf8(encoding) else encoding)
    except UnicodeError as error:
        place = error.start if isinstance(error, UnicodeDecodeError) else 0
        raise WrongEncodingError(_problem(content, encoding, place)) from error
    check_start(content, encoding)
    return text.removeprefix("\ufeff")


def check_start(content: bytes, encoding: str) -> None:
    """Check that the start of a UTF-8 file is not in an encoding of wide or switched characters.

    Raises:
        WrongEncodingError: it is UTF-16, UTF-32 or ISO 2022.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 4 * content.count(0) > len(content)
    if is_utf8(encoding) and content and (wide or _SHIFT in content):
        raise WrongEncodingError(_problem(content, encoding, 0))


def is_utf8(encoding: str) -> bool:
    """Return whether ``encoding`` is a name of UTF-8."""
    return codecs.lookup(encoding).name == UTF_8


def likely_encoding(content: bytes, place: int = 0) -> str | None:
    """Return the encoding that the text around byte ``place`` is probably in; None if nothing fits."""
    if _SHIFT in content[:_SAMPLE_BYTES]:
        return "iso2022_jp"
    start = max(0, place - _SAMPLE_BYTES // 2) // 4 * 4  # whole units of UTF-16 and UTF-32
    sample = content[start : start + _SAMPLE_BYTES]
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and 4 * sample.count(0) > len(sample):
        return _wide_encoding(sample)
    wide = _WIDE if len(sample) >= _LEAST_WIDE_BYTES else ()  # a short word of one byte a letter looks like UTF-16 too
    if _is_japanese(sample):
        return "euc_jp"
    matches = from_bytes(sample, cp_isolation=[*_LIKELY, *wide])
    best = matches.best()
    western = next((one for one in matches if "cp1252" in (one.encoding, *one.could_be_from_charset)), None)
    if best is None:
        return None
    if best is western:
        return "cp1252"
    if _is_western(sample) and best.percent_coherence <= (western.percent_coherence if western else 0):
        return "cp1252"
    return best.encoding


def _is_japanese(sample: bytes) -> bool:
    """Return whether EUC-JP finds many kana: Korean and Chinese texts have few bytes that are kana there."""
    foreign = [letter for letter in _decoded(sample, "euc_jp") if not letter.isascii()]
    kana = sum("\u3041" <= letter <= "\u30ff" for letter in foreign)
    return len(foreign) >= 2 and kana >= _KANA * len(foreign)


def _is_western(sample: bytes) -> bool:
    """Return whether the text is mostly ASCII letters, and what else cp1252 finds stands as in western languages."""
    text = _decoded(sample, "cp1252")
    letters = [letter for letter in text if letter.isalpha()]
    plain = sum(letter.isascii() for letter in letters)
    return bool(letters) and 2 * plain >= len(letters) and not _NOT_WESTERN.search(text)


def _decoded(sample: bytes, encoding: str) -> str:
    """Return the sample as text, "" if it is not in ``encoding``; a character that its end cuts off may be missing."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample, final=False)
    except UnicodeDecodeError:
        return ""


def _wide_encoding(sample: bytes) -> str:
    """Return UTF-32 or UTF-16 by where the zero bytes of mostly Latin text are."""
    if 5 * sample.count(0) > 3 * len(sample):
        return "utf_32"
    return "utf_16_le" if sample[1::2].count(0) > sample[::2].count(0) else "utf_16_be"


def _problem(content: bytes, encoding: str, place: int) -> str:
    likely = likely_encoding(content, place)
    guess = f", probably {likely}: check it and set encoding to {likely}" if likely else ""
    return f"not {encoding.upper() if is_utf8(encoding) else encoding}{guess}"
