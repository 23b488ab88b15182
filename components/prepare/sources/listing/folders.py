"""Lists the files below a folder: those to read, and a marker for everything else in it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from components.prepare.documents.document import Unreadable, printable
from components.shared.errors import UserError

_LOCK_PREFIXES = (".", "~$")
"""Hidden files and folders (also .~lock.NAME# of LibreOffice and macOS's ._NAME), and Office's lock files."""
_OF_THE_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Listing:
    """A folder's entries by name; ``files`` are those that are not folders, ``hidden`` the hidden and lock files."""

    path: Path
    folders: list[str]
    files: list[str]
    hidden: list[str]

    @cached_property
    def folded(self) -> dict[str, list[str]]:
        """The files by case-folded name."""
        by_name: dict[str, list[str]] = {}
        for name in self.files:
            by_name.setdefault(name.casefold(), []).append(name)
        return by_name


@dataclass(frozen=True)
class SourceFile:
    """A file to read: its path relative to the source, its path, and the listing of the folder that it is in."""

    name: str
    path: Path
    listing: Listing


def files_below(root: Path, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
    """Yield the files whose name is ``wanted``, sorted by name with folders in between; markers for all others.

    Hidden files and folders, and lock files, are not read. Links to files are followed; links to folders are, if the
    target is below ``root`` and not around the link.

    Raises:
        UserError: a folder cannot be listed.
    """
    yield from _below(root, root.resolve(), root, wanted)


def list_folder(folder: Path) -> Listing:
    """Return what is in ``folder``.

    Raises:
        UserError: it cannot be listed.
    """
    folders: list[str] = []
    files: list[str] = []
    hidden: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(_LOCK_PREFIXES) or entry.name.lower() in _OF_THE_SYSTEM:
                    hidden.append(entry.name)
                else:
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", where=printable(str(folder))) from error
    return Listing(folder, sorted(folders), sorted(files), sorted(hidden))


def _below(
    root: Path, resolved_root: Path, folder: Path, wanted: Callable[[str], bool]
) -> Iterator[SourceFile | Unreadable]:
    listing = list_folder(folder)
    folders, hidden = set(listing.folders), set(listing.hidden)
    for entry in sorted([*listing.folders, *listing.files, *listing.hidden]):
        path = folder / entry
        name = printable(path.relative_to(root).as_posix())
        if entry in hidden:
            yield Unreadable(name, "a hidden file or folder, or a lock file", "file_hidden")
        elif entry in folders:
            if problem := _link_problem(path, resolved_root):
                yield Unreadable(name, problem, "file_link_not_followed")
            else:
                yield from _below(root, resolved_root, path, wanted)
        elif not path.is_file():
            yield Unreadable(name, "a broken link, or not a regular file", "file_link_not_followed")
        elif wanted(entry):
            yield SourceFile(name, path, listing)
        else:
            kind = path.suffix.lower() or "no suffix"
            yield Unreadable(name, f"files of this kind ({kind}) are not read", "file_kind_not_read", kind)


def _link_problem(folder: Path, resolved_root: Path) -> str | None:
    if not folder.is_symlink():
        return None
    try:
        target, parent = folder.resolve(strict=True), folder.parent.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return f"a link that leads nowhere ({error})"
    if not target.is_relative_to(resolved_root):
        return "a link to a folder outside of the source"
    return "a link to a folder around it" if parent.is_relative_to(target) else None
