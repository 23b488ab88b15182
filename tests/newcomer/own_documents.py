"""A new user's folder: texts in four scripts, a PDF, scans with their texts, and files of kinds that are not read."""

import random
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from tests.fixtures.pdf_files import write_pdf
from tests.fixtures.script_samples import SAMPLES

SCRIPTS = ("english", "russian", "chinese", "hindi")
TEXTS_PER_SCRIPT = 5
SCANS = 5
_DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def write_documents(root: Path) -> None:
    """Write ``root/documents`` and ``root/scans``; each document has words of its own, in an order of its own."""
    documents, scans = root / "documents", root / "scans"
    documents.mkdir()
    scans.mkdir()
    for sample in (one for one in SAMPLES if one.name in SCRIPTS):
        for number in range(TEXTS_PER_SCRIPT):
            text = _shuffled(sample.text, sample.words_by_spaces, f"{sample.name} {number}")
            (documents / f"{sample.name}-{number}.txt").write_text(text, encoding="utf-8")
    english = next(one.text for one in SAMPLES if one.name == "english")
    pages = [_in_lines(_shuffled(english, True, f"invoice {number}"), 38) for number in range(2)]
    write_pdf(documents / "invoice.pdf", pages)
    (documents / "~$letter.docx").write_bytes(b"a lock file")
    (documents / "letter.docx").write_bytes(b"PK of a kind that is not read")
    for number in range(SCANS):
        _write_scan(scans / f"scan-{number}.png", _in_lines(_shuffled(english, True, f"scan {number}")[:90], 24))


def _shuffled(text: str, words_by_spaces: bool, seed: str) -> str:
    """Return the text's words, or its letters where no spaces separate words, in another order."""
    parts = text.split() if words_by_spaces else list(text.replace("\n", ""))
    random.Random(seed).shuffle(parts)
    return (" " if words_by_spaces else "").join(parts)[:160]


def _in_lines(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _write_scan(path: Path, text: str) -> None:
    """Write a picture with ``text``, a little grey and askew, and the text beside it."""
    page = Image.new("L", (420, 160), 245)
    ImageDraw.Draw(page).multiline_text((20, 15), text, fill=40, font=ImageFont.truetype(str(_DEJAVU), 22), spacing=8)
    page.rotate(0.5, fillcolor=245, resample=Image.Resampling.BICUBIC).save(path)
    path.with_suffix(".txt").write_text(text, encoding="utf-8")
