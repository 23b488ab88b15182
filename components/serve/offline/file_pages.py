"""What comes of reading files: their pages in order, and after its last page each file's end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.errors import UserError


@dataclass(frozen=True)
class FilePage:
    """A page's place (numbers from 1), and its reading as ``/v1/ocr`` returns it."""

    file: Path
    number: int
    reading: dict[str, Any]


@dataclass(frozen=True)
class FileEnd:
    """No more pages of ``file`` come; ``problem`` is why not all of them were read, or None."""

    file: Path
    problem: UserError | None
