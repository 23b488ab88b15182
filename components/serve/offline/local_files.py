"""Reads files with a model in this process; a file or page that cannot be read does not keep the others from it."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from PIL import Image

from components.serve.config import ServeConfig
from components.serve.documents.opening import DocumentError, PageFile
from components.serve.documents.page_opener import OPENING_MODULES, opened_files
from components.serve.engines.protocol import EngineStoppedError
from components.serve.http.ocr import reading_as_json
from components.serve.offline.file_pages import FileEnd, FilePage
from components.serve.offline.local_reader import LocalReader
from components.shared.errors import UserError, first_line
from components.shared.foreign_files.foreign_reader import ForeignReader
from components.shared.foreign_files.limits import ReadingLimits

_Place = tuple[Path, int]


def read_locally(reader: LocalReader, files: Sequence[Path]) -> Generator[FilePage | FileEnd, None, None]:
    """Yield each file's pages and its end, in the files' order. Files are opened in a child process with limits.

    Raises:
        EngineStoppedError: the model's thread has ended.
    """
    problem: UserError | None = None  # of the first page of the file that the model did not read
    for mark, result in reader.each(_opened(files)):
        if isinstance(mark, FileEnd):
            yield FileEnd(mark.file, problem or mark.problem)
            problem = None
            continue
        assert result is not None
        (file, number), error = mark, result.exception()
        if error is None:
            reading = result.result()
            yield FilePage(file, number, {"model": reading.model, **reading_as_json(reading)})
        elif isinstance(error, EngineStoppedError):
            raise error
        else:
            said = error.problem if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
            problem = problem or UserError(f"page {number} could not be read ({said})", where=str(file))


def _opened(files: Sequence[Path]) -> Iterator[tuple[_Place | FileEnd, Image.Image | None]]:
    """Yield the place and picture of each page, and each file's end; a few files are opened ahead."""
    limit = ServeConfig.model_fields["max_pixels_per_page"].default
    with ForeignReader(ReadingLimits(), preload=OPENING_MODULES) as opener:
        opened = opened_files(opener, [PageFile(file, limit) for file in files])
        for file, (_, pages) in zip(files, opened, strict=True):
            number, problem = 0, None
            try:
                for number, picture in enumerate(pages, start=1):
                    yield (file, number), picture
            except DocumentError as error:
                after = f", after page {number}" if number else ""
                problem = UserError(error.message + after, where=str(file))
            if not number and problem is None:
                problem = UserError("it has no pages", where=str(file))
            yield FileEnd(file, problem), None
