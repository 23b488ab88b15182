"""A finished package for publication: checked against its own lineage, then unpacked into a temporary folder."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.export.lineage.beside_zip import package_archive
from components.export.lineage.findings import Findings, Reach
from components.export.lineage.integrity import check_integrity
from components.export.lineage.lineage_schema import Lineage, parsed_lineage
from components.export.package.package_layout import LINEAGE_FILE
from components.shared.artifacts.output_folder import scratch_folder
from components.shared.artifacts.package_files import opened_package
from components.shared.digests import sha256_file
from components.shared.errors import UserError


@dataclass(frozen=True)
class FinishedPackage:
    """A package's files in a temporary folder.

    Attributes:
        archive_sha256: the zip's digest; None if an unpacked folder was given.
    """

    folder: Path
    lineage: Lineage
    archive_sha256: str | None


@contextmanager
def finished_package(path: Path) -> Iterator[FinishedPackage]:
    """Check a zip, an unpacked folder, or the export step's output folder, and yield its files.

    Raises:
        UserError: not a package, or its files do not match its lineage.
    """
    archive = package_archive(Findings(), path)
    # Only the zip is published: other files beside it in the export step's folder do not matter.
    package = archive.path if archive else path
    differing = [finding for finding in check_integrity(package, Reach()) if finding.state == "differs"]
    if differing:
        first = f"{differing[0].subject}: {differing[0].detail}"
        raise UserError(
            f"the package does not match its lineage ({len(differing)} differ, first {first})",
            where=str(path),
            mend="run deepsynth verify for details, and export again",
        )
    with scratch_folder("deepsynth-package") as scratch:
        folder = scratch / "package"
        _unpack(package, folder)
        lineage = parsed_lineage((folder / LINEAGE_FILE).read_bytes(), str(package))
        yield FinishedPackage(folder, lineage, sha256_file(package) if archive else None)


def _unpack(package: Path, folder: Path) -> None:
    """Write the files that were checked: those of a zip with safe names; those of a folder that the hub did not add."""
    with opened_package(package) as opened:
        for name in opened.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.opened(name) as source, target.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
