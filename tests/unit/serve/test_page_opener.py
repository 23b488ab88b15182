"""Files are opened in processes of their own: one that never ends, or ends its process, costs nobody else anything."""

import gc
import io
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from components.serve.documents.opening import DocumentError, PageFile
from components.serve.documents.page_opener import PageOpener
from components.shared.foreign_files.limits import ReadingLimits
from components.shared.page_reader.pictures import gray_page
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.pdf_files import pdf_drawing_itself

LIMITS = ReadingLimits(memory_bytes=2**28, message_bytes=0)
PIXELS = 10**6


@pytest.fixture
def opener() -> Iterator[PageOpener]:
    opener = PageOpener(2, LIMITS)
    yield opener
    opener.close()


def opened(opener: PageOpener, content: bytes, pages: int = 10) -> list[Image.Image]:
    return opener.opened(PageFile(content, PIXELS, pages), time.monotonic() + 3600).result()


def grandchildren() -> set[psutil.Process]:
    """Return this process's grandchildren: those that read are the fork server's children."""
    test = psutil.Process()
    return {process for process in test.children(recursive=True) if process not in test.children()}


def test_pages_are_those_of_the_files(opener: PageOpener) -> None:
    turned = io.BytesIO()
    drawn_page("turned").save(turned, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    two = [drawn_page("one"), drawn_page("two")]
    for content, count in ((as_file(two[0]), 1), (as_file(*two, kind="TIFF"), 2), (turned.getvalue(), 1)):
        pages = opened(opener, content)
        with Image.open(io.BytesIO(content)) as image:
            assert pages[0].mode == "RGB" and pages[0].tobytes() == gray_page(image).convert("RGB").tobytes()
        assert len(pages) == count
    assert len(opened(opener, as_file(*two * 3, kind="PDF"), pages=4)) == 4


def test_nobody_waits_for_a_file_that_never_ends(opener: PageOpener, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.pdf")  # opening it waits for somebody who writes
    others = grandchildren()
    endless = opener.opened(PageFile(tmp_path / "endless.pdf", PIXELS), time.monotonic() + 3600)
    for _ in range(3):
        assert len(opened(opener, as_file(drawn_page("x")))) == 1
    assert not endless.done()
    started = grandchildren() - others
    opener.close()
    with pytest.raises(DocumentError, match="died"):
        endless.result()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert len(started) == 2 and not alive


def test_a_child_stays_until_it_dies_and_an_innocent_file_is_not_to_blame(opener: PageOpener) -> None:
    page, others = as_file(drawn_page("x")), grandchildren()
    opened(opener, page)
    with pytest.raises(DocumentError) as broken:
        opened(opener, page[:90])
    (first,) = grandchildren() - others
    with pytest.raises(DocumentError) as hostile:
        opened(opener, pdf_drawing_itself())
    _, alive = psutil.wait_procs([first], timeout=60)
    opened(opener, page)
    (second,) = grandchildren() - others
    second.kill()  # the kernel does this where memory is short
    psutil.wait_procs([second], timeout=60)
    assert len(opened(opener, page)) == 1
    assert broken.value.code == "broken_file" and not alive
    assert hostile.value.code in ("document_over_memory", "document_crashed_its_reader")


def test_a_request_whose_time_is_over_is_given_up(opener: PageOpener) -> None:
    late = opener.opened(PageFile(as_file(drawn_page("x")), PIXELS), time.monotonic() - 1)
    with pytest.raises(TimeoutError):
        late.result()


@pytest.mark.parametrize("is_broken", [True, False])
def test_the_error_of_a_file_holds_neither_the_file_nor_its_pages(opener: PageOpener, is_broken: bool) -> None:
    """Whoever is told has given the memory back: it may not wait for the garbage collector."""
    two = as_file(drawn_page("one"), drawn_page("two"), kind="TIFF")
    file = PageFile(two[:-9] if is_broken else two, PIXELS)
    held, pixels = weakref.ref(file), list[int]()

    def second_is_too_much(of_page: int) -> None:
        pixels.append(of_page)
        if len(pixels) == 2:
            raise MemoryError

    gc.collect()
    gc.disable()
    try:
        before = living_images()
        future = opener.opened(file, time.monotonic() + 3600, second_is_too_much)
        del file
        error = future.exception()
        assert isinstance(error, DocumentError if is_broken else MemoryError)
        assert living_images() <= before
        deadline = time.monotonic() + 300
        while held() is not None:  # the pool's thread lets it go after the answer
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        gc.enable()


def living_images() -> int:
    return sum(
        issubclass(type(one), Image.Image) for one in gc.get_objects()
    )  # isinstance asks proxies, also dead ones
