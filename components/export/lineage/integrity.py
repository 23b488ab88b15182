"""``deepsynth verify``: recompute every digest of a package's lineage from the bytes that are available."""

from pathlib import Path

from components.export.lineage.beside_zip import check_archive, check_beside, package_archive
from components.export.lineage.findings import Finding, Findings, Reach
from components.export.lineage.lineage_links import (
    check_adapter,
    check_base,
    check_dataset,
    check_evaluation,
    check_gate,
    check_training,
)
from components.export.lineage.lineage_schema import Lineage, parsed_lineage
from components.export.package.package_layout import LINEAGE_FILE
from components.shared.artifacts.package_files import PackageFiles, UnreadableFileError, opened_package
from components.shared.errors import UserError


def check_integrity(package: Path, reach: Reach) -> list[Finding]:
    """Compare ``package`` (zip, unpacked folder, or the export step's output folder) with its own lineage.

    A package whose files and lineage were both rewritten is consistent with itself: only ``reach`` ties it to anything
    outside.

    Raises:
        UserError: it cannot be opened, holds no lineage that this version can read, or is an unpacked folder while
            ``reach`` has a zip's digest.
    """
    findings = Findings()
    archive = package_archive(findings, package)
    if archive is None:
        if reach.archive_sha256 is not None and package.is_dir():
            raise UserError(
                "--sha256 needs a zip, and this is an unpacked folder",
                where=str(package),
                mend="give the zip, or leave --sha256 out",
            )
    else:
        check_beside(findings, archive)
        if not archive.path.is_file():
            findings.differs("archive", archive.path.name, "missing")
            return findings.found
        check_archive(findings, archive, reach)
    path, beside = (archive.path, archive.beside) if archive else (package, None)
    with opened_package(path) as files:
        _check_package(findings, files, path, beside, reach)
    return findings.found


def _check_package(
    findings: Findings, files: PackageFiles, package: Path, beside: Lineage | None, reach: Reach
) -> None:
    if LINEAGE_FILE not in files.files:
        raise UserError(f"holds no {LINEAGE_FILE}", where=str(package), mend="give a package that export made")
    try:
        lineage = parsed_lineage(files.read(LINEAGE_FILE), str(package))
    except UnreadableFileError as error:
        raise UserError(f"{LINEAGE_FILE} cannot be read ({error})", where=str(package), mend="get it again") from error
    if beside:
        without_archive = beside.model_copy(update={"archive": None})
        findings.compare("archive", f"{LINEAGE_FILE} inside and beside it", lineage, without_archive, "they differ")
    actual = _check_files(findings, files, lineage)
    check_dataset(findings, files, lineage, reach)
    check_training(findings, files, lineage)
    check_adapter(findings, files, actual, lineage, reach)
    check_base(findings, actual, lineage, reach)
    check_evaluation(findings, files, lineage, reach)
    check_gate(findings, files, lineage)


def _check_files(findings: Findings, files: PackageFiles, lineage: Lineage) -> dict[str, str]:
    """Compare each file with its digest and return the files' real digests."""
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
