"""The process that opens a server's pictures: one answer for one picture."""

import io
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from components.shared.page_reader.picture_opener import PictureOpener
from tests.fixtures.drawn_pages import drawn_page


@pytest.fixture
def opener() -> Iterator[PictureOpener]:
    found = PictureOpener()
    yield found
    found.close()


def png(text: str) -> bytes:
    stream = io.BytesIO()
    drawn_page(text).save(stream, "PNG")
    return stream.getvalue()


def test_an_interrupt_leaves_no_answer_for_the_next_picture(
    opener: PictureOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = opener.picture(png("second"), "second").tobytes()

    def interrupted(connection: Connection) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Connection, "recv", interrupted)
        opener.picture(png("first"), "first")
    assert opener.picture(png("second"), "second").tobytes() == second
