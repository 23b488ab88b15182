"""Reads born-digital PDFs: the text of every page, and a reference to its picture."""

from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pypdfium2.raw

from components.prepare.documents.document import Document, PagePicture, Unreadable, printable
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.unreadable import unreadable
from components.prepare.sources.pages.pdf_text import PageText, page_text
from components.shared.foreign_files.reading_child import part_read

_MOST_HIDDEN = 0.25
"""Above this share of hidden words a page is dropped: its text layer is not about the picture."""
_FEW_WORDS = 3
_MOST_PAGES = 20_000
_MOST_BROKEN_PAGES = 100
"""A file of some hundred bytes can claim a million pages."""
_NAMED_WORDS = 5


def open_pdf(path: Path | str) -> pypdfium2.PdfDocument:
    """Open a PDF; the file stays open as long as the document is referenced.

    Raises:
        pypdfium2.PdfiumError: not a PDF, broken, or encrypted with a password.
        OSError: the file cannot be read.
    """
    # A file without pages does not reset PDFium's last error, which may be from another file: overwrite it.
    pypdfium2.raw.FPDF_LoadMemDocument(b"", 0, None)
    stream = open(path, "rb")  # noqa: SIM115, PTH123 - closed with the document; PDFium takes a path only as UTF-8
    try:
        return pypdfium2.PdfDocument(stream, autoclose=True)
    except pypdfium2.PdfiumError:
        stream.close()
        raise


def read_pdf(path: Path, name: str, reading: SourceReading) -> Iterator[Document | Unreadable]:
    """Yield a PDF as one document with a picture per page, and a marker for each page whose text cannot be trusted.

    The text of a page is what PDFium finds inside the page's box, in drawing order. This is the reading order in files
    from word processors, browsers and TeX. A page without text (a scan) keeps its place with an empty text. Words that
    the page does not show are left out. A page is left out if a font does not map its glyphs to characters, or if more
    than a quarter of its words are not shown. Of a file with a hundred broken pages the rest is left out.
    """
    settings, where = reading.settings, printable(str(path))
    try:
        pdf = open_pdf(path)
        count = len(pdf)
    except pypdfium2.PdfiumError as error:
        mend = "give it without a password" if "password" in str(error) else "make or copy the file again"
        yield unreadable(settings, name, f"a PDF that cannot be opened ({error})", where=where, mend=mend)
        return
    if not count:
        yield unreadable(settings, name, "a PDF without pages", where=where)
    if count > _MOST_PAGES:
        problem = f"a PDF of {count} pages, at most {_MOST_PAGES} are read"
        yield unreadable(settings, name, problem, where=where, reason="document_over_limits")
        return
    pictures, broken = [], 0
    for index in range(count):
        page_id = f"{name}#page={index + 1}"
        try:
            page = page_text(pdf[index], settings.keep_invisible_text)
        except pypdfium2.PdfiumError as error:
            yield unreadable(settings, page_id, f"a broken page ({error})", where=f"{where}, page {index + 1}")
            broken += 1
            if broken == _MOST_BROKEN_PAGES and index + 1 < count:
                left = count - index - 1
                yield Unreadable(page_id, f"{left} more pages are not read: {broken} are broken", count=left)
                break
            continue
        part_read()
        dropped, marker = _check(page, page_id)
        if marker is not None:
            yield marker
        if not dropped:
            pictures.append(PagePicture(str(path.absolute()), index, page.text, settings.on_unreadable))
    if pictures:
        text = "\n\n".join(picture.text for picture in pictures if picture.text)
        yield Document(name, text, lang=settings.lang, pictures=tuple(pictures))


def _check(page: PageText, page_id: str) -> tuple[bool, Unreadable | None]:
    """Return whether the page is dropped, and what to count of it."""
    if page.unmapped:
        problem = f"{page.unmapped} glyphs of fonts that do not map them to characters"
        return True, Unreadable(page_id, problem, "page_text_unmapped")
    if not page.hidden:
        return False, None
    hidden = len(page.hidden)
    named = ", ".join(map(repr, page.hidden[:_NAMED_WORDS])) + (", …" if hidden > _NAMED_WORDS else "")
    problem = f"{hidden} of {page.words} words of the text layer are not shown: {named}"
    if hidden == page.words or (hidden > _FEW_WORDS and hidden > _MOST_HIDDEN * page.words):
        return True, Unreadable(page_id, problem, "page_text_hidden")
    return False, Unreadable(page_id, problem, "word_without_ink", count=hidden)
