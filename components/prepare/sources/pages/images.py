"""Reads scans: pictures with their text files beside them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from components.prepare.documents.document import Document, PagePicture, Unreadable, printable
from components.prepare.documents.unreadable import unreadable
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.pages.scan_text import ScanTextError, alto_text, hocr_text
from components.prepare.sources.tables.rows import MAX_DOCUMENT_BYTES, decoded

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

_TEXT_READERS: dict[str, Callable[[bytes], str | bytes]] = {
    ".txt": decoded,
    ".gt.txt": decoded,
    ".alto.xml": alto_text,
    ".xml": alto_text,
    ".hocr": hocr_text,
    ".html": hocr_text,
}
"""The text files that are searched for beside a picture, in order; ``.gt.txt`` is the name for ground truth in OCR-D,
Kraken and Tesseract's training."""


def read_image(path: Path, name: str, settings: SourceSettings) -> Iterator[Document | Unreadable]:
    """Yield a picture with the text beside it as a document of one page; the picture itself is not opened."""
    beside = text_beside(path)
    if beside is None:
        yield Unreadable(name, f"no text beside it ({', '.join(_TEXT_READERS)})", "document_without_text")
        return
    suffix, text_path = beside
    if text_path.stat().st_size > MAX_DOCUMENT_BYTES:
        yield Unreadable(name, f"its text has more than {MAX_DOCUMENT_BYTES} bytes", "document_too_long")
        return
    try:
        text = _TEXT_READERS[suffix](text_path.read_bytes())
    except ScanTextError as error:
        yield unreadable(settings, name, f"{text_path.name}: {error}", where=printable(str(text_path)))
        return
    if isinstance(text, bytes):  # not UTF-8: dropped later and counted as document_not_text
        yield Document(name, text, lang=settings.lang)
        return
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    picture = PagePicture(str(path.absolute()), page_index=None, text=text)
    yield Document(name, text, lang=settings.lang, pictures=(picture,))


def text_beside(path: Path) -> tuple[str, Path] | None:
    """Return the suffix and path of the text file that belongs to a picture; None if there is none."""
    for suffix in _TEXT_READERS:
        candidate = path.with_name(path.stem + suffix)
        if candidate.is_file():
            return suffix, candidate
    return None
