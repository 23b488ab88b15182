"""PDF files for tests: real ones by matplotlib, and odd ones written object by object."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure


def write_pdf(path: Path, pages: Sequence[str], size: tuple[float, float] = (5.0, 7.0)) -> Path:
    """Write one page of ``size`` inches per text, in DejaVu Sans; an empty text gives a page with a line drawing."""
    with matplotlib.rc_context({"pdf.fonttype": 42}), PdfPages(path) as pdf:
        for text in pages:
            figure = Figure(figsize=size)
            if text:
                figure.text(0.08, 0.95, text, fontsize=11, va="top", parse_math=False)
            else:
                figure.add_axes((0.1, 0.1, 0.8, 0.8)).set_axis_off()
            pdf.savefig(figure)
    return path


def pdf_of_objects(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """Return a PDF whose objects are numbered from 1; the first is the catalogue."""
    content, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    head = b"xref\n0 %d\n0000000000 65535 f \n%btrailer<</Size %d/Root 1 0 R%b>>" % (size, table, size, trailer)
    return content + head + b"\nstartxref\n%d\n%%%%EOF" % len(content)


def one_page_pdf(content: bytes, resources: bytes, *more: bytes, box: bytes = b"0 0 600 800") -> bytes:
    """Return a PDF of one page that draws ``content``; ``more`` are objects from number 5 on."""
    return pdf_of_objects(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[%b]/Contents 4 0 R/Resources<<%b>>>>" % (box, resources),
            _stream(b"", content),
            *more,
        ]
    )


def pdf_with_picture(width: int, height: int) -> bytes:
    """Return a PDF whose page shows a gray picture that says it has ``width`` x ``height`` pixels; most are missing."""
    head = b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8"
    return one_page_pdf(
        b"q 500 0 0 500 50 50 cm /I Do Q", b"/XObject<</I 5 0 R>>", _stream(head % (width, height), bytes(1000))
    )


def pdf_with_text(text: bytes, encoding: bytes = b"/WinAnsiEncoding", box: bytes = b"0 0 600 800") -> bytes:
    """Return a PDF that writes ``text`` at (100, 700) in Helvetica with that encoding."""
    font = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding %b>>>>" % encoding
    return one_page_pdf(b"BT /F 20 Tf 100 700 Td (%b) Tj ET" % text, font, box=box)


def pdf_with_password() -> bytes:
    """Return a PDF that is encrypted with a password that nobody knows."""
    encrypted = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<%b>/U<%b>>>/ID[<00><00>]" % (b"ab" * 32, b"cd" * 32)
    return pdf_of_objects([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>"], encrypted)


def _stream(head: bytes, data: bytes) -> bytes:
    return b"<<%b/Length %d>>stream\n%b\nendstream" % (head, len(data), data)
