"""``deepsynth verify``: every digest of a package's lineage computed again from the bytes within reach."""

from pathlib import Path

from pydantic import ValidationError

from components.export.findings import Finding, Findings, Reach
from components.export.lineage_links import (
    check_adapter,
    check_base,
    check_dataset,
    check_evaluation,
    check_gate,
    check_training,
)
from components.export.lineage_schema import Lineage
from components.export.package_files import PackageFiles, UnreadableFileError, opened_package, parsed_json
from components.export.package_layout import LINEAGE_FILE
from components.shared.errors import UserError
from components.shared.lineage import sha256_file, sha256_folder


def check_integrity(package: Path, reach: Reach) -> list[Finding]:
    """Compare ``package`` (zip, unpacked folder, or the export step's output folder) with its own lineage.

    A package whose files and lineage were both rewritten matches itself: only ``reach`` ties it to anything outside.

    Raises:
        UserError: it cannot be opened, or holds no lineage that this version can read.
    """
    findings = Findings()
    outer = _outer_lineage(package)
    if outer:
        if outer.archive is None:
            raise UserError("names no archive", where=str(package / LINEAGE_FILE), mend="export again")
        _check_merged(findings, outer, package)
        inside = package / Path(outer.archive.file).name
        if not inside.is_file():
            findings.differs("archive", outer.archive.file, "missing")
            return findings.found
        findings.compare("archive", inside.name, sha256_file(inside), outer.archive.sha256)
        package = inside
    with opened_package(package) as files:
        _check_package(findings, files, package, outer, reach)
    return findings.found


def _check_package(findings: Findings, files: PackageFiles, package: Path, outer: Lineage | None, reach: Reach) -> None:
    if LINEAGE_FILE not in files.files:
        raise UserError(f"holds no {LINEAGE_FILE}", where=str(package), mend="give a package that export made")
    try:
        lineage = parsed_lineage(files.read(LINEAGE_FILE), str(package))
    except UnreadableFileError as error:
        raise UserError(f"{LINEAGE_FILE} cannot be read ({error})", where=str(package), mend="get it again") from error
    if outer:
        beside = outer.model_copy(update={"archive": None})
        findings.compare("archive", f"{LINEAGE_FILE} inside and beside it", lineage, beside, "they differ")
    if reach.archive_sha256 and package.is_file():
        findings.compare("archive", f"{package.name} and --sha256", sha256_file(package), reach.archive_sha256)
    actual = _check_files(findings, files, lineage)
    check_dataset(findings, files, lineage, reach)
    check_training(findings, files, lineage)
    check_adapter(findings, files, actual, lineage, reach)
    check_base(findings, actual, lineage, reach)
    check_evaluation(findings, files, lineage, reach)
    check_gate(findings, files, lineage)


def parsed_lineage(content: bytes, where: str) -> Lineage:
    """Return the lineage in a file's ``content``.

    Raises:
        UserError: it is not JSON, or lacks a link.
    """
    try:
        return Lineage.model_validate(parsed_json(content))
    except (ValidationError, ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0]
        if isinstance(error, ValidationError):
            problem = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors()[:5])
        raise UserError(
            f"{LINEAGE_FILE} is not one that this version writes ({problem})",
            where=where,
            mend="export again, or verify with the version that made the package",
        ) from error


def _outer_lineage(package: Path) -> Lineage | None:
    """Return the lineage beside a zip in the export step's output folder; None for other packages."""
    path = package / LINEAGE_FILE
    if not path.is_file():
        return None
    lineage = parsed_lineage(path.read_bytes(), str(package))
    return lineage if lineage.archive or any(package.glob("*.zip")) else None


def _check_files(findings: Findings, files: PackageFiles, lineage: Lineage) -> dict[str, str]:
    """Compare each file with its digest; return the digests that the files really have."""
    actual: dict[str, str] = {}
    for name, reason in files.unsafe.items():
        findings.differs("package", name, reason)
    for name in files.files:
        if name == LINEAGE_FILE:
            continue
        try:
            actual[name] = files.sha256(name)
        except UnreadableFileError as error:
            findings.differs("package", name, f"cannot be read ({error})")
            continue
        if name in lineage.package:
            findings.compare("package", name, actual[name], lineage.package[name])
        else:
            findings.differs("package", name, "not in the lineage")
    for name in lineage.package.keys() - files.files.keys():
        findings.differs("package", name, "missing")
    return actual


def _check_merged(findings: Findings, lineage: Lineage, folder: Path) -> None:
    if lineage.merged is None:
        return
    merged = folder / "merged"
    if merged.is_dir():
        findings.compare("merged", "merged", sha256_folder(merged), lineage.merged.sha256)
    else:
        findings.not_reached("merged", "merged", "the folder is not here")
