"""A package's script opens pages in a process with limits, in a program that has imported nothing else yet."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.pdf_files import pdf_drawing_itself, pdf_with_picture

ROOT = Path(__file__).parents[4]
PROGRAM = """
import sys
from pathlib import Path
from components.shared.page_reader.opening_process import OpeningProcess
from components.shared.page_reader.refusal import RefusalError

assert not {"torch", "PIL"} & sys.modules.keys()
for name in sys.argv[1:]:
    with OpeningProcess(seconds=1, gib=0.25) as opened:
        try:
            print([(page.number, page.image.mode, page.image.size) for page in opened.pages(Path(name))])
        except RefusalError as refusal:
            print(refusal)
"""


def said_of(folder: Path, **files: Callable[[], bytes]) -> list[str]:
    """Return the line of each file; its suffix stands behind ``_``."""
    paths = [folder / name.replace("_", ".") for name in files]
    for path, make in zip(paths, files.values(), strict=True):
        path.write_bytes(make())
    command = [sys.executable, "-c", PROGRAM, *map(str, paths)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def test_pages_come_and_hostile_files_end_their_own_process(tmp_path: Path) -> None:
    pages = [drawn_page("one"), drawn_page("two")]
    good, pdf, broken, hostile, pictures = said_of(
        tmp_path,
        good_png=lambda: as_file(pages[0]),
        two_pdf=lambda: as_file(*pages, kind="PDF"),
        broken_png=lambda: as_file(pages[0])[:90],
        itself_pdf=pdf_drawing_itself,
        # PDFium draws it in little memory and 2 seconds (a Xeon of 2026), a hundred times in 200.
        pictures_pdf=lambda: pdf_with_picture(60_000, 60_000, times=100),
    )
    assert good == f"[(1, 'RGB', {pages[0].size})]" and pdf.count("'RGB'") == 2
    assert broken.startswith(f"{tmp_path / 'broken.png'}: cannot be read as a picture")
    # A slow machine's time is over before the memory is.
    assert "more than 0.25 GiB of memory" in hostile or "takes more than 1 seconds" in hostile, hostile
    assert "takes more than 1 seconds" in pictures


def test_the_process_ends_with_the_program() -> None:
    code = PROGRAM.partition("assert")[0] + "import os, signal\nopened = OpeningProcess()\n"
    code += "print(opened._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(killed.stdout)).wait(timeout=60)
