"""A finished package on its way elsewhere: checked against its own lineage, then unpacked for a while."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.export.findings import Reach
from components.export.integrity import check_integrity, parsed_lineage
from components.export.lineage_schema import Lineage
from components.export.package_files import opened_package
from components.export.package_layout import LINEAGE_FILE
from components.shared.errors import UserError
from components.shared.lineage import sha256_file


@dataclass(frozen=True)
class FinishedPackage:
    """A package's files in a folder of their own.

    Attributes:
        archive_sha256: the zip's digest; None where an unpacked folder was given.
    """

    folder: Path
    lineage: Lineage
    archive_sha256: str | None


@contextmanager
def finished_package(path: Path) -> Iterator[FinishedPackage]:
    """Check a zip, an unpacked folder, or the export step's output folder, and yield its files.

    Raises:
        UserError: it is no package, or its files are not those of its lineage.
    """
    differing = [finding for finding in check_integrity(path, Reach()) if finding.state == "differs"]
    if differing:
        first = f"{differing[0].subject}: {differing[0].detail}"
        raise UserError(
            f"the package does not match its lineage ({len(differing)} differ, first {first})",
            where=str(path),
            mend="see deepsynth verify, and export again",
        )
    archive = _archive(path)
    if archive is None:
        yield FinishedPackage(path, parsed_lineage((path / LINEAGE_FILE).read_bytes(), str(path)), None)
        return
    with tempfile.TemporaryDirectory(prefix="deepsynth-package-") as scratch:
        folder = Path(scratch) / "package"
        _unpack(archive, folder)
        lineage = parsed_lineage((folder / LINEAGE_FILE).read_bytes(), str(archive))
        yield FinishedPackage(folder, lineage, sha256_file(archive))


def _archive(path: Path) -> Path | None:
    if path.is_file():
        return path
    lineage = parsed_lineage((path / LINEAGE_FILE).read_bytes(), str(path))
    return path / Path(lineage.archive.file).name if lineage.archive else None


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of a zip whose names were checked: unsafe ones are not among ``files``."""
    with opened_package(archive) as package:
        for name in package.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with package.opened(name) as source, target.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
