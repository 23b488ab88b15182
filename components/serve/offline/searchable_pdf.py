"""The searchable PDFs of ``deepsynth read``: where they go, and a child process with limits that writes them."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from components.serve.offline.text_layer import TextToAdd, write_with_text
from components.shared.artifacts.output_file import written_file
from components.shared.errors import UserError
from components.shared.foreign_files.foreign_reader import ForeignReader
from components.shared.foreign_files.limits import LimitExceededError, ReadingLimits

_MODULES = ("components.serve.offline.text_layer",)


class SearchablePdfs:
    """Writes a PDF for each file into a folder; leave the block to end its process.

    Raises:
        UserError: the folder cannot be made or written to, or a PDF is there already, or two files would have one name.
    """

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self._folder = folder
        _check_targets(files, folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder cannot be made ({error.strerror})", where=str(folder)) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError("the folder cannot be written to", where=str(folder))
        self._writer = ForeignReader(ReadingLimits(), preload=_MODULES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, file: Path, texts: Sequence[str]) -> Path:
        """Write a file's PDF with the text of each page, and return its place.

        Raises:
            UserError: it cannot be written.
        """
        target = _target(file, self._folder)
        try:
            with written_file(target) as partial:
                task = TextToAdd(file, tuple(texts), partial)
                for _, pages in self._writer.each(write_with_text, [task]):
                    for _ in pages:
                        pass
        except LimitExceededError as error:
            raise UserError(f"its PDF is not written: {error.problem}", where=str(file)) from error
        except Exception as error:  # of Pillow, PDFium or the disk, in the process that writes
            said = f"{type(error).__name__}: {error}"
            raise UserError(f"its PDF is not written ({said.splitlines()[0]})", where=str(file)) from error
        return target


def _check_targets(files: Sequence[Path], folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError("it is a file, not a folder", where=f"--searchable-pdf {folder}")
    first: dict[Path, Path] = {}
    for file in files:
        target = _target(file, folder)
        if target.exists() or target.is_symlink():
            mend = "name another folder, or remove the file"
            raise UserError(f"the PDF of {file} would go there, and it is there already", where=str(target), mend=mend)
        if other := first.get(target):
            mend = "rename one of them, or read them into two folders"
            raise UserError(f"the PDFs of {other} and {file} would both go there", where=str(target), mend=mend)
        first[target] = file


def _target(file: Path, folder: Path) -> Path:
    return folder / f"{file.stem}.pdf"
