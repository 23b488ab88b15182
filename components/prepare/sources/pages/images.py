"""Reads scans: pictures with their text files beside them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.prepare.documents.document import Document, PagePicture, Unreadable, printable
from components.prepare.documents.reading_tasks import ReadItem
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.text_decoding import WrongEncodingError, decode_text
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.listing.folders import Listing, SourceFile
from components.prepare.sources.pages.scan_text import ScanTextError, alto_text, hocr_text
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

_TEXT_READERS: dict[str, Callable[[bytes, str], str]] = {
    ".txt": decode_text,
    ".gt.txt": decode_text,
    ".alto.xml": alto_text,
    ".xml": alto_text,
    ".hocr": hocr_text,
    ".html": hocr_text,
}
"""The text files that are searched for beside a picture, in order; ``.gt.txt`` is the name for ground truth in OCR-D,
Kraken and Tesseract's training."""
_VARIANTS = (".bin", ".nrm", ".dew", ".raw")
"""OCRopus and Kraken name the binarized picture of a line ``l.bin.png``; its text is ``l.gt.txt``."""
_SOFT_HYPHENS_AT_LINE_END = re.compile("\xad+(?=[ \t]*(?:\n|$))")
"""A soft hyphen is drawn at the end of a line, and nowhere else."""


def is_picture(name: str) -> bool:
    """Return whether a file of this name is read as a scan."""
    return name.lower().endswith(IMAGE_SUFFIXES)


@dataclass(frozen=True)
class ScanTask:
    """A picture and the name of the text file beside it; ``source_id`` is the picture's name in ids."""

    source_id: str
    picture: str
    text_name: str

    @property
    def where(self) -> str:
        return printable(str(Path(self.picture).with_name(self.text_name)))


def scan_task(file: SourceFile) -> ScanTask | Unreadable:
    """Return the task to read the text beside a picture, or a marker if there is none."""
    beside = text_beside(file.path.name, file.listing)
    if beside is None:
        return Unreadable(file.name, f"no text beside it ({', '.join(_TEXT_READERS)})", "document_without_text")
    return ScanTask(file.name, str(file.path), beside)


def read_scan_task(reading: SourceReading, task: ScanTask | Unreadable) -> Iterator[ReadItem]:
    """Yield a picture with the text beside it as a document of one page; the picture itself is not opened."""
    yield task if isinstance(task, Unreadable) else _read_scan(task, reading)


def _read_scan(task: ScanTask, reading: SourceReading) -> Document | Unreadable:
    name, beside, settings = task.source_id, task.text_name, reading.settings
    text_path = Path(task.picture).with_name(beside)
    try:
        if text_path.stat().st_size > MAX_DOCUMENT_BYTES:
            return Unreadable(name, f"its text has more than {MAX_DOCUMENT_BYTES} bytes", "document_too_long")
        text = _reader(beside)(text_path.read_bytes(), settings.encoding)
    except ScanTextError as error:
        return unreadable(settings, name, f"{printable(beside)}: {error}", where=task.where)
    except OSError as error:
        problem = f"{printable(beside)} cannot be read ({error.strerror or error})"
        return unreadable(settings, name, problem, where=task.where)
    except WrongEncodingError as error:
        return Unreadable(name, f"{printable(beside)}: {error}", "document_wrong_encoding")
    return scan(Path(task.picture), name, text, reading)


def scan(path: Path, name: str, text: str, reading: SourceReading, lang: str | None = None) -> Document:
    """Return a picture with its text as a document of one page."""
    text = _SOFT_HYPHENS_AT_LINE_END.sub("-", text.replace("\r\n", "\n").replace("\r", "\n"))
    picture = PagePicture(str(path.absolute()), None, text, reading.settings.on_unreadable)
    return Document(name, text, lang=lang or reading.settings.lang, pictures=(picture,))


def text_beside(picture: str, listing: Listing) -> str | None:
    """Return the name of the text file that belongs to the picture of this name; None if there is none.

    A text whose name differs in case belongs to a picture only if no other picture in the folder has its exact name.
    """
    stem = Path(picture).stem
    stems = [stem, *(stem[: -len(variant)] for variant in _VARIANTS if stem.lower().endswith(variant))]
    for candidate in stems:
        for suffix in _TEXT_READERS:
            found = listing.folded.get((candidate + suffix).casefold(), [])
            if candidate + suffix in found:
                return candidate + suffix
            if len(found) == 1 and not _has_other_picture(found[0][: -len(suffix)], picture, listing):
                return found[0]
    return None


def texts_without_picture(listing: Listing) -> list[str]:
    """Return the text files in a folder that belong to none of its pictures."""
    pictures = [name for name in listing.files if is_picture(name)]
    used = {text_beside(picture, listing) for picture in pictures}
    return [name for name in listing.files if is_scan_text(name) and name not in used]


def is_scan_text(name: str) -> bool:
    """Return whether a file of this name may hold the text of a scan."""
    return name.lower().endswith(tuple(_TEXT_READERS))


def _has_other_picture(stem: str, picture: str, listing: Listing) -> bool:
    return any(
        Path(name).stem == stem and name != picture
        for suffix in IMAGE_SUFFIXES
        for name in listing.folded.get((stem + suffix).casefold(), [])
    )


def _reader(text_name: str) -> Callable[[bytes, str], str]:
    lower = text_name.lower()
    return _TEXT_READERS[max((suffix for suffix in _TEXT_READERS if lower.endswith(suffix)), key=len)]
