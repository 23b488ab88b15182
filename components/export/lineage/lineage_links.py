"""The links of a lineage, each compared with the bytes that are available."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from components.export.lineage.findings import Findings, Reach
from components.export.lineage.lineage_schema import Lineage
from components.export.package.model_files import base_files
from components.export.package.package_layout import (
    ADAPTER_CONFIG,
    BASE_FOLDER,
    EVIDENCE_FOLDER,
    SAMPLES_FILE,
    TRAINING_FILE,
    restored_adapter_config,
)
from components.shared.artifacts.dataset_manifest import MANIFEST_FILE, manifest_digest
from components.shared.artifacts.evaluation_report import EvaluationReport, ReportRow
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.package_files import PackageFiles, UnreadableFileError, parsed_json
from components.shared.artifacts.step_file import OtherSchemaVersionError, StepFile
from components.shared.digests import file_digests, sha256_file, sha256_of_files
from components.shared.errors import UserError

File = TypeVar("File", bound=StepFile)
_NAMED = 5  # differing files that a finding names


def check_dataset(findings: Findings, files: PackageFiles, lineage: Lineage, reach: Reach) -> None:
    """Compare manifest and shards."""
    dataset = lineage.dataset
    listed = {shard.file: shard.sha256 for shards in dataset.shards.values() for shard in shards}
    content = _evidence(findings, files, "manifest", MANIFEST_FILE, dataset.manifest_sha256)
    if content is not None:
        findings.compare("manifest", "digest over its content", manifest_digest(content), dataset.digest)
        shards = _shards_of(content)
        findings.compare("manifest", "its shards", shards, listed, "are not those of the lineage")
    if reach.dataset_dir is None:
        findings.not_reached("shards", f"{len(listed)} files", "give --dataset-dir")
        return
    manifest = reach.dataset_dir / MANIFEST_FILE
    findings.compare_file("manifest", manifest, dataset.manifest_sha256)
    for name, digest in listed.items():
        # Take only the file name: the lineage is not trusted to choose which path is read.
        findings.compare_file("shards", reach.dataset_dir / Path(name).name, digest)


def _shards_of(manifest: dict[str, Any]) -> dict[str, str] | None:
    try:
        return {shard["url"]: shard["sha256"] for index in manifest["splits"].values() for shard in index["shardlist"]}
    except (KeyError, TypeError, AttributeError):
        return None


def check_training(findings: Findings, files: PackageFiles, lineage: Lineage) -> None:
    """Compare training.json with what the lineage says about it."""
    training = lineage.training
    same = training.dataset_digest == lineage.dataset.digest
    findings.compare(
        "training", "whether it was on this dataset", same, training.on_this_dataset, "the digests say otherwise"
    )
    content = _json(findings, files, "training", TRAINING_FILE, training.sha256)
    if content is not None:
        for name in ("dataset_digest", "config", "seed", "steps"):
            said = getattr(training, name)
            findings.compare("training", f"{TRAINING_FILE}: {name}", _text(content.get(name)), _text(said))


def check_adapter(
    findings: Findings, files: PackageFiles, actual: dict[str, str], lineage: Lineage, reach: Reach
) -> None:
    """Compare the adapter's files, in the package and where it was trained."""
    adapter = lineage.adapter
    findings.compare("adapter", "digest over its files' digests", sha256_of_files(adapter.files), adapter.sha256)
    findings.compare("adapter", TRAINING_FILE, adapter.files.get(TRAINING_FILE), lineage.training.sha256)
    for name, digest in adapter.files.items():
        if name == ADAPTER_CONFIG and adapter.kind == "adapter":
            _check_adapter_config(findings, files, lineage)
        elif name in actual:
            findings.compare("adapter", name, actual[name], digest)
        elif reach.adapter_dir is None:
            findings.not_reached("adapter", name, "not in the package; give --adapter-dir")
    if reach.adapter_dir is not None:
        if reach.adapter_dir.is_dir():
            found = file_digests(reach.adapter_dir)
            others = [
                name for name in found.keys() | adapter.files.keys() if found.get(name) != adapter.files.get(name)
            ]
            digest = sha256_of_files(found)
            findings.compare(
                "adapter", str(reach.adapter_dir), digest, adapter.sha256, ", ".join(sorted(others)[:_NAMED])
            )
        else:
            findings.not_reached("adapter", str(reach.adapter_dir), "no such folder")


def _check_adapter_config(findings: Findings, files: PackageFiles, lineage: Lineage) -> None:
    """Compare the trained adapter_config.json: the packed one names another location of the base model."""
    before = lineage.adapter.before_packing
    if before is None or ADAPTER_CONFIG not in files.files:
        findings.not_reached("adapter", ADAPTER_CONFIG, "was rewritten for the package; give --adapter-dir")
        return
    subject = f"{ADAPTER_CONFIG} as trained"
    try:
        trained = restored_adapter_config(files.read(ADAPTER_CONFIG), before)
    except (UnreadableFileError, ValueError, TypeError, RecursionError) as error:
        findings.differs("adapter", subject, f"cannot be read ({error})")
        return
    findings.compare("adapter", subject, hashlib.sha256(trained).hexdigest(), lineage.adapter.files[ADAPTER_CONFIG])


def check_base(findings: Findings, actual: dict[str, str], lineage: Lineage, reach: Reach) -> None:
    """Compare the base model's files."""
    expected, prefix = lineage.base_model.sha256, f"{BASE_FOLDER}/"
    packed = {name.removeprefix(prefix): digest for name, digest in actual.items() if name.startswith(prefix)}
    if expected is None:
        findings.not_reached("base", lineage.base_model.base_model, "identified by its revision only")
        return
    if packed:
        in_order = {name: packed[name] for name in sorted(packed, key=lambda name: Path(name))}
        findings.compare("base", BASE_FOLDER, sha256_of_files(in_order), expected)
    if reach.base_model is not None and reach.base_model.is_dir():
        expected_files = base_files(reach.base_model, with_code=lineage.base_model.with_code)
        outside = {name: sha256_file(path) for name, path in expected_files.items()}
        findings.compare("base", str(reach.base_model), sha256_of_files(outside), expected)
    elif reach.base_model is not None:
        findings.not_reached("base", str(reach.base_model), "no such folder")
    elif not packed and lineage.adapter.kind == "adapter":
        findings.not_reached("base", lineage.base_model.base_model, "not in the package; give --base-model FOLDER")


def check_evaluation(findings: Findings, files: PackageFiles, lineage: Lineage, reach: Reach) -> None:
    """Compare the report, the adapter and dataset that it names, and the file of predictions."""
    evaluation = lineage.evaluation
    content = _evidence(findings, files, "evaluation", EvaluationReport.FILE, evaluation.report_sha256)
    report = _typed(findings, "evaluation", EvaluationReport, content)
    if report is not None:
        digest = report.models.adapter.sha256 if report.models.adapter else None
        findings.compare("evaluation", f"{report.FILE}: the adapter", digest, lineage.adapter.sha256)
        findings.compare("evaluation", f"{report.FILE}: the dataset", report.dataset.digest, lineage.dataset.digest)
        same = [_json_text(row) for row in report.rows] == [_json_text(row) for row in evaluation.rows]
        findings.compare("evaluation", f"{report.FILE}: the figures", same, True, "are others")
    if reach.evaluation_dir is None:
        findings.not_reached("evaluation", SAMPLES_FILE, "give --evaluation-dir")
        return
    findings.compare_file("evaluation", reach.evaluation_dir / EvaluationReport.FILE, evaluation.report_sha256)
    findings.compare_file("evaluation", reach.evaluation_dir / SAMPLES_FILE, evaluation.samples_sha256)


def check_gate(findings: Findings, files: PackageFiles, lineage: Lineage) -> None:
    """Compare the verdict, and the adapter and dataset that it names."""
    if lineage.gate is None:
        return
    content = _evidence(findings, files, "gate", GateVerdict.FILE, lineage.gate.verdict_sha256)
    verdict = _typed(findings, "gate", GateVerdict, content)
    if verdict is not None:
        findings.compare("gate", f"{verdict.FILE}: decision", verdict.promoted, lineage.gate.promoted)
        findings.compare("gate", f"{verdict.FILE}: the adapter", verdict.adapter_sha256, lineage.adapter.sha256)
        digest = lineage.evaluation.dataset_digest
        findings.compare("gate", f"{verdict.FILE}: the dataset", verdict.dataset_digest, digest)
        others = verdict.differences_from(lineage.evaluation.rows)
        findings.compare("gate", f"{verdict.FILE}: the figures", others, [], "; ".join(others))


def _typed(findings: Findings, link: str, kind: type[File], content: dict[str, Any] | None) -> File | None:
    """Return a step's file as its model; None, and why, where it is not one."""
    if content is None:
        return None
    name = f"{kind.FILE}: its figures"
    try:
        return kind.of(content, kind.FILE)
    except OtherSchemaVersionError as error:
        findings.not_reached(link, name, error.problem)
    except UserError as error:
        findings.differs(link, name, error.problem)
    return None


def _json_text(row: ReportRow) -> str:
    """Return JSON text, so that NaN equals NaN."""
    return row.model_dump_json()


def _text(value: Any) -> str:
    """Return JSON text, so that NaN equals NaN."""
    return json.dumps(value, sort_keys=True)


def _evidence(findings: Findings, files: PackageFiles, link: str, name: str, expected: str) -> dict[str, Any] | None:
    return _json(findings, files, link, f"{EVIDENCE_FOLDER}/{name}", expected)


def _json(findings: Findings, files: PackageFiles, link: str, name: str, expected: str) -> dict[str, Any] | None:
    """Compare a file of the package with its digest and return its content; None, with a finding, if that fails."""
    if name not in files.files:
        findings.not_reached(link, name, "not in the package")
        return None
    try:
        content = files.read(name)
        findings.compare(link, name, hashlib.sha256(content).hexdigest(), expected)
        return dict(parsed_json(content))
    except (UnreadableFileError, ValueError, TypeError, RecursionError) as error:
        findings.differs(link, name, f"cannot be read ({error})")
        return None
