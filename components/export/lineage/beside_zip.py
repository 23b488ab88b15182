"""A package's zip and the files beside it: the lineage that names its digest, and export's other files."""

from dataclasses import dataclass
from pathlib import Path

from components.export.lineage.findings import Findings, Reach
from components.export.lineage.lineage_schema import Lineage, parsed_lineage
from components.export.package.package_layout import CARD_FILE, EXAMPLE_FILE, LINEAGE_FILE, MERGED_FOLDER
from components.shared.digests import sha256_file, sha256_folder
from components.shared.errors import UserError

_LINK = "archive"
# MLflow stores the step's settings beside the zip, so a download of the run's artifacts includes them.
_SETTINGS_IN_MLFLOW = "config.json"


@dataclass(frozen=True)
class PackageArchive:
    """A package's zip.

    Attributes:
        path: where it should be.
        folder: the export step's output folder; None if the zip was given by itself.
        sha256: its digest according to ``beside``.
        beside: the lineage beside it; None if no lineage there names it.
    """

    path: Path
    folder: Path | None = None
    sha256: str | None = None
    beside: Lineage | None = None


def package_archive(findings: Findings, package: Path) -> PackageArchive | None:
    """Return the zip that ``package`` is or contains; None for an unpacked folder, or if there is none.

    Raises:
        UserError: the lineage beside a zip in a folder cannot be read, or names no zip.
    """
    if package.is_file():
        return _given_by_itself(findings, package)
    path = package / LINEAGE_FILE
    if not path.is_file():
        return None
    lineage = parsed_lineage(path.read_bytes(), str(package))
    if lineage.archive is not None:
        # Take only the file name: the lineage is not trusted to choose which path is read.
        return PackageArchive(package / Path(lineage.archive.file).name, package, lineage.archive.sha256, lineage)
    if any(package.glob("*.zip")):
        raise UserError("names no archive", where=str(path), mend="export again")
    return None


def _given_by_itself(findings: Findings, path: Path) -> PackageArchive:
    beside = path.parent / LINEAGE_FILE
    if not beside.is_file():
        return PackageArchive(path)
    try:
        lineage = parsed_lineage(beside.read_bytes(), str(beside))
    except (UserError, OSError):
        problem = "cannot be read by this version"
    else:
        named = lineage.archive
        if named is not None and Path(named.file).name == path.name:
            return PackageArchive(path, None, named.sha256, lineage)
        problem = f"names {named.file}" if named else "names no zip"
    findings.not_reached(_LINK, f"{LINEAGE_FILE} beside the zip", problem)
    return PackageArchive(path)


def check_archive(findings: Findings, archive: PackageArchive, reach: Reach) -> None:
    """Compare the zip's digest with the lineage beside it and with ``--sha256``."""
    name, given = archive.path.name, reach.archive_sha256
    if archive.sha256 is None and given is None:
        return
    digest = sha256_file(archive.path)
    if archive.sha256 is not None:
        findings.compare(_LINK, name, digest, archive.sha256)
    if given is not None:
        findings.compare(_LINK, f"{name} and --sha256", digest, given.strip().lower(), f"the zip's digest is {digest}")


def check_beside(findings: Findings, archive: PackageArchive) -> None:
    """Compare the files beside the zip in the export step's folder, and report those that export did not write."""
    folder, lineage = archive.folder, archive.beside
    if folder is None or lineage is None:
        return
    known = {archive.path.name, LINEAGE_FILE, CARD_FILE, _SETTINGS_IN_MLFLOW}
    card, subject = folder / CARD_FILE, f"{CARD_FILE} beside the zip"
    if card.is_file():
        findings.compare(_LINK, subject, sha256_file(card), lineage.package.get(CARD_FILE))
    else:
        findings.not_reached(_LINK, subject, "the file is not here")
    if EXAMPLE_FILE in lineage.package and (folder / EXAMPLE_FILE).is_file():
        known.add(EXAMPLE_FILE)
        subject = f"{EXAMPLE_FILE} beside the zip"
        findings.compare(_LINK, subject, sha256_file(folder / EXAMPLE_FILE), lineage.package[EXAMPLE_FILE])
    if lineage.merged is not None:
        known.add(MERGED_FOLDER)
        merged = folder / MERGED_FOLDER
        if merged.is_dir():
            findings.compare("merged", MERGED_FOLDER, sha256_folder(merged), lineage.merged.sha256)
        else:
            findings.not_reached("merged", MERGED_FOLDER, "the folder is not here")
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            findings.differs(_LINK, f"{path.name} beside the zip", "not in the lineage")
