"""Documents from scans: a folder of pictures with their texts beside them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from components.prepare.source_settings import SourceSettings
from components.prepare.sources.document import Document, PagePicture, Unreadable, printable
from components.prepare.sources.rows import MAX_DOCUMENT_BYTES, decoded
from components.prepare.sources.scan_text import ScanTextError, alto_text, hocr_text
from components.prepare.sources.unreadable import unreadable

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

_TEXT_READERS: dict[str, Callable[[bytes], str | bytes]] = {
    ".txt": decoded,
    ".gt.txt": decoded,
    ".alto.xml": alto_text,
    ".xml": alto_text,
    ".hocr": hocr_text,
    ".html": hocr_text,
}
"""What may stand beside a picture, in the order in which it is looked for; ``.gt.txt`` is what OCR-D, Kraken and
Tesseract's training call a line's or page's true text."""


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
    if isinstance(text, bytes):  # not UTF-8: dropped and counted as document_not_text
        yield Document(name, text, lang=settings.lang)
        return
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    picture = PagePicture(str(path.absolute()), page_index=None, text=text)
    yield Document(name, text, lang=settings.lang, pictures=(picture,))


def text_beside(path: Path) -> tuple[str, Path] | None:
    """Return the kind and the path of the text that belongs to a picture; None where there is none."""
    for suffix in _TEXT_READERS:
        candidate = path.with_name(path.stem + suffix)
        if candidate.is_file():
            return suffix, candidate
    return None
