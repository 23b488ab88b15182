"""Reads born-digital PDFs: the text of every page, and a reference to its picture."""

import re
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pypdfium2.raw

from components.prepare.documents.document import Document, PagePicture, Unreadable, printable
from components.prepare.documents.source_reading import SourceReading
from components.prepare.documents.unreadable import unreadable

# PDFium writes these for a hyphen at the end of a line and joins the lines; the page shows a hyphen.
_LINE_END_HYPHEN = re.compile("[\x02\ufffe](?:\r\n)?")

# Word's code points for the bullets of the fonts Symbol and Wingdings.
_BULLETS = str.maketrans({"\uf0b7": "•", "\uf0a7": "▪", "\uf0d8": "➢", "\uf0fc": "✓"})

# Control characters, private use and U+FFFD: a glyph is drawn, but its character is unknown.
_NO_LETTER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd\ufffe\uffff\ue000-\uf8ff\U000f0000-\U0010ffff]")


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
    from word processors, browsers and TeX. A page without text (a scan) keeps its place with an empty text. A page is
    left out if a font does not map its glyphs to characters.
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
    pictures = []
    for index in range(count):
        page_id = f"{name}#page={index + 1}"
        try:
            text, unmapped = _page_text(pdf, index)
        except pypdfium2.PdfiumError as error:
            yield unreadable(settings, page_id, f"a broken page ({error})", where=f"{where}, page {index + 1}")
            continue
        if unmapped:
            problem = f"{unmapped} glyphs of fonts that do not map them to characters"
            yield Unreadable(page_id, problem, "page_text_unmapped")
            continue
        pictures.append(PagePicture(str(path.absolute()), index, text, settings.on_unreadable))
    if pictures:
        text = "\n\n".join(picture.text for picture in pictures if picture.text)
        yield Document(name, text, lang=settings.lang, pictures=tuple(pictures))


def _page_text(pdf: pypdfium2.PdfDocument, index: int) -> tuple[str, int]:
    """Return the text of a page, with ``\\n`` as line break, and the number of glyphs without a character."""
    textpage = pdf[index].get_textpage()
    raw = textpage.get_text_bounded()
    text = _LINE_END_HYPHEN.sub("-\n", raw).replace("\r\n", "\n").replace("\r", "\n").translate(_BULLETS).strip()
    characters = range(textpage.count_chars())
    guessed = sum(pypdfium2.raw.FPDFText_HasUnicodeMapError(textpage, number) == 1 for number in characters)
    return text, guessed + len(_NO_LETTER.findall(text))
