"""``lineage.json``: every link from the shards to the package, with its digest."""

import json
import os
from pathlib import Path
from typing import Any

from components.export.config import ExportConfig
from components.export.lineage.lineage_schema import SCHEMA_VERSION
from components.export.package.inputs import PackageSources
from components.export.package.model_files import base_files
from components.export.package.package_layout import (
    ADAPTER_CONFIG,
    BASE_FOLDER,
    LINEAGE_FILE,
    SAMPLES_FILE,
    TRAINING_FILE,
    restored_adapter_config,
)
from components.shared.artifacts.dataset_manifest import MANIFEST_FILE, DatasetManifest
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.digests import file_digests, sha256_file, sha256_of_files
from components.shared.versions import software_versions

_BASE_BYTES_HASHED = 10_000_000_000  # 10 GB take about 10 s; a larger base is identified by its revision only


def lineage_content(
    config: ExportConfig,
    sources: PackageSources,
    package: Path,
    verification: dict[str, Any] | None,
    merged: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the lineage of the files in the folder ``package``, without ``lineage.json`` itself."""
    training, report = sources.training, sources.report
    return {
        "schema_version": SCHEMA_VERSION,
        "name": sources.name,
        "dataset": _dataset(config, sources.manifest),
        "base_model": {
            "base_model": config.base_model,
            **sources.base.as_json(),
            "with_code": config.trust_remote_code,
            "sha256": _base_sha256(config, sources, package),
        },
        "training": {
            "dataset_digest": training.dataset_digest,
            "on_this_dataset": sources.trained_on_this_dataset,
            "config": training.config,
            "seed": training.seed,
            "steps": training.steps,
            "versions": training.versions,
            "sha256": sha256_file(config.adapter_dir / TRAINING_FILE),
        },
        "adapter": {
            "kind": sources.kind,
            "sha256": sources.adapter_sha256,
            "files": file_digests(config.adapter_dir),
            "before_packing": _before_packing(config, sources, package),
        },
        "evaluation": {
            "dataset_digest": report.dataset.digest,
            "normalization": report.normalization,
            "rows": [row.model_dump(mode="json") for row in report.rows],
            "report_sha256": sha256_file(config.evaluation_dir / EvaluationReport.FILE),
            "samples_sha256": sha256_file(config.evaluation_dir / SAMPLES_FILE),
        },
        "gate": _gate(config, sources),
        "pipeline_run_id": os.environ.get("KFP_RUN_ID"),
        "package": {
            path.relative_to(package).as_posix(): sha256_file(path)
            for path in sorted(package.rglob("*"))
            if path.is_file() and path != package / LINEAGE_FILE
        },
        "verification": verification,
        "merged": merged,
        "versions": software_versions(),
    }


def _dataset(config: ExportConfig, manifest: DatasetManifest) -> dict[str, Any]:
    return {
        "source": manifest.config.get("source"),
        "source_digest": manifest.source_digest,
        "config": manifest.config,
        "config_digest": manifest.config_digest,
        "shards": {
            split: [{"file": shard.url, "sha256": shard.sha256} for shard in index.shardlist]
            for split, index in manifest.splits.items()
        },
        "manifest_sha256": sha256_file(config.dataset_dir / MANIFEST_FILE),
        "digest": manifest.digest,
        "tool_version": manifest.tool_version,
    }


def _gate(config: ExportConfig, sources: PackageSources) -> dict[str, Any] | None:
    if config.gate_dir is None or sources.verdict is None:
        return None
    return {
        "promoted": sources.verdict.promoted,
        "reference": sources.verdict.reference,
        "reference_model": sources.verdict.reference_model.model_dump(mode="json"),
        "tags": sources.verdict.tags(),
        "verdict_sha256": sha256_file(config.gate_dir / GateVerdict.FILE),
    }


def _base_sha256(config: ExportConfig, sources: PackageSources, package: Path) -> str | None:
    """Return the digest over the base's files that a package would hold; None if hashing them takes too long."""
    if sources.include_base:
        return sha256_of_files(file_digests(package / BASE_FOLDER))
    folder = Path(sources.base_location)
    if not folder.is_dir():
        return None
    files = base_files(folder, with_code=config.trust_remote_code)
    if sum(path.stat().st_size for path in files.values()) > _BASE_BYTES_HASHED:
        return None
    return sha256_of_files({name: sha256_file(path) for name, path in files.items()})


def _before_packing(config: ExportConfig, sources: PackageSources, package: Path) -> dict[str, Any] | None:
    """Return the values that restore the trained adapter_config.json, byte for byte; None if there are none."""
    if sources.kind == "model":
        return None
    trained = (config.adapter_dir / ADAPTER_CONFIG).read_bytes()
    content = json.loads(trained)
    before = {name: content[name] for name in ("base_model_name_or_path", "revision") if name in content}
    packed = (package / ADAPTER_CONFIG).read_bytes()
    return before if restored_adapter_config(packed, before) == trained else None
