"""Finds font files in Python packages and in the machine's font folders."""

import importlib.util
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from fontTools.ttLib import TTFont

log = logging.getLogger(__name__)

FONT_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")

_ENTRY_POINT_GROUPS = ("fonts_ttf", "fonts_otf")
# Searched if fontconfig's fc-list is not installed.
_FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts").expanduser(),
    Path("~/.fonts").expanduser(),
    Path("/Library/Fonts"),
    Path("/System/Library/Fonts"),
)
_FAMILY_AND_FULL_NAMES = (1, 4, 16)
_REGULAR_WEIGHT, _NORMAL_WIDTH, _ITALIC_BIT = 400, 5, 1


@dataclass(frozen=True)
class NamedFace:
    """The names of one face, and how much it differs from the regular upright face of its family.

    Attributes:
        names: family names and full names in all languages of the font's name table.
        strangeness: italic, distance from the normal width (1 to 9), distance from the regular weight (1 to 1000).
    """

    path: Path
    index: int
    names: frozenset[str]
    strangeness: tuple[int, int, int]


def files_below(folder: Path) -> list[Path]:
    """Return the font files of a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in FONT_SUFFIXES and path.is_file())


def known_font_files() -> list[Path]:
    """Return the fonts of Python packages, then those of the machine: packages are pinned, machines differ."""
    return list(dict.fromkeys([*_carried_by_packages(), *machine_font_files()]))


def machine_font_files() -> list[Path]:
    """Return the files in fontconfig's folders, or without fontconfig those in the usual folders; sorted."""
    program = shutil.which("fc-list")
    if program is None:
        return files_in_usual_folders()
    answer = subprocess.run([program, "--format", "%{file}\n"], capture_output=True)
    if answer.returncode:
        log.warning("fc-list ended with exit code %d; searching the usual font folders instead", answer.returncode)
        return files_in_usual_folders()
    files = {Path(os.fsdecode(line)) for line in answer.stdout.splitlines() if line}
    return sorted(file for file in files if file.suffix.lower() in FONT_SUFFIXES)


def files_in_usual_folders() -> list[Path]:
    """Return the font files in the folders where desktops keep fonts; sorted."""
    return sorted(file for folder in _FOLDERS if folder.is_dir() for file in files_below(folder))


def faces_called(name: str) -> list[NamedFace]:
    """Return the faces whose family or full name is ``name``, ignoring case; the most regular face comes first."""
    wanted = _folded(name)
    known = (face for path in known_font_files() for face in named_faces(path))
    faces = [face for face in known if wanted in map(_folded, face.names)]
    return sorted(faces, key=lambda face: face.strangeness)  # a stable sort keeps packages before the machine


@cache
def named_faces(path: Path) -> tuple[NamedFace, ...]:
    """Return the faces of a file with their names; an unreadable file has none."""
    faces: list[NamedFace] = []
    try:
        for index in range(collection_size(path)):
            with TTFont(path, fontNumber=index, lazy=True) as font:
                faces.append(NamedFace(path, index, _names(font), _strangeness(font)))
    except Exception as error:  # fontTools raises almost any exception for broken tables
        log.debug("font search by name skips %s: %r", path, error)
        return ()
    return tuple(faces)


def collection_size(path: Path) -> int:
    """Return the number of faces in a file: 1 unless it is a collection (OpenType specification, TTC header)."""
    with path.open("rb") as stream:
        header = stream.read(12)
    return int.from_bytes(header[8:12], "big") if header[:4] == b"ttcf" else 1


def _names(font: TTFont) -> frozenset[str]:
    records = (record for record in font["name"].names if record.nameID in _FAMILY_AND_FULL_NAMES)
    return frozenset(record.toUnicode(errors="replace") for record in records)


def _strangeness(font: TTFont) -> tuple[int, int, int]:
    style = font["OS/2"]
    return (
        style.fsSelection & _ITALIC_BIT,
        abs(style.usWidthClass - _NORMAL_WIDTH),
        abs(style.usWeightClass - _REGULAR_WEIGHT),
    )


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _carried_by_packages() -> Iterator[Path]:
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib and matplotlib.origin:
        yield from files_below(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    for group in _ENTRY_POINT_GROUPS:
        for package in sorted(entry_points(group=group), key=lambda entry: entry.name):
            # The convention of PyPI's "fonts" package: each entry point is a dictionary of names to paths.
            try:
                yield from sorted(Path(path) for path in package.load().values())
            except Exception as error:  # importing a package runs its code
                log.warning("cannot load the fonts of the Python package behind %s: %r", package.value, error)
