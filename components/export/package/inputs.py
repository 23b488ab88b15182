"""A package's inputs: adapter, dataset and evaluation, read and checked to belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from transformers import ProcessorMixin

from components.export.config import ExportConfig
from components.export.package.package_layout import SAMPLES_FILE
from components.export.servable.serving_files import check_servable
from components.shared.artifacts.dataset_manifest import DatasetManifest, read_manifest
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.digests import sha256_folder
from components.shared.errors import UserError
from components.shared.models.adapter_loading import (
    AdapterKind,
    adapter_kind,
    check_base_of_adapter,
    check_fine_tuned_weights,
)
from components.shared.models.base_identity import BaseIdentity, base_identity
from components.shared.models.base_models import TINY_BASE, base_model_location
from components.shared.models.model_families import ModelFamily, family_of
from components.shared.models.model_loading import model_type_of
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.reading.image_settings import ImageSettings, with_image_settings
from components.shared.reading.no_repeat_settings import NoRepeatSettings

_LARGEST_BASE_BY_DEFAULT = 100_000_000  # bytes


@dataclass(frozen=True)
class PackageSources:
    """Everything that export reads."""

    kind: AdapterKind
    adapter_sha256: str
    base_location: str
    base_name: str
    """The hub id, the folder's own name, or ``tiny-base``."""
    base_is_folder: bool
    base: BaseIdentity
    include_base: bool
    manifest: DatasetManifest
    training: TrainingRecord
    report: EvaluationReport
    predictions: list[dict[str, Any]]
    """The adapter's rows in samples.parquet."""
    base_texts: dict[str, str]
    """The base's texts, by page key."""
    verdict: GateVerdict | None
    name: str
    evaluated_tokens: int
    """The longest answer that the evaluation allowed."""
    packaged_tokens: int
    """The longest answer that the packaged script allows."""

    @property
    def trained_on_this_dataset(self) -> bool:
        return self.training.dataset_digest == self.manifest.digest


def read_sources(config: ExportConfig) -> PackageSources:
    """Read the inputs and check that the evaluation is of this adapter and this dataset.

    Raises:
        UserError: an input is missing or unreadable, weights are cut, NaN or infinite, or they do not belong together.
    """
    kind = adapter_kind(config.adapter_dir)
    check_base_of_adapter(config.base_model, config.revision, config.adapter_dir)
    check_fine_tuned_weights(config.adapter_dir)
    check_servable(config, kind)
    if config.merge and kind == "model":
        raise UserError(
            "there is no adapter to merge: the folder holds a whole model", where="merge", mend="leave merge off"
        )
    training = TrainingRecord.read(config.adapter_dir)
    report = EvaluationReport.read(config.evaluation_dir)
    manifest = read_manifest(config.dataset_dir)
    adapter_sha256 = sha256_folder(config.adapter_dir)
    _check_evaluation(config, report, manifest, adapter_sha256)
    evaluated_tokens = report.reading.max_new_tokens
    location = base_model_location(config.base_model)
    base_name = _base_name(config.base_model, location)
    predictions, base_texts = _read_predictions(config.evaluation_dir / SAMPLES_FILE)
    return PackageSources(
        kind=kind,
        adapter_sha256=adapter_sha256,
        base_location=location,
        base_name=base_name,
        base_is_folder=Path(location).is_dir(),
        base=base_identity(base_name, location, config.revision),
        include_base=kind == "adapter" and _include_base(config, location),
        manifest=manifest,
        training=training,
        report=report,
        predictions=predictions,
        base_texts=base_texts,
        verdict=_read_verdict(config.gate_dir, adapter_sha256, report),
        name=config.model_name or _package_name(base_name, kind, adapter_sha256),
        evaluated_tokens=evaluated_tokens,
        packaged_tokens=config.max_new_tokens or evaluated_tokens,
    )


def evaluated_family(config: ExportConfig, sources: PackageSources, processor: ProcessorMixin) -> ModelFamily:
    """Return the model's family with the evaluation's image settings, which ``processor`` gets too."""
    family = family_of(model_type_of(config.base_model, config.revision, config.trust_remote_code))
    return with_image_settings(ImageSettings.of(sources.report.reading.model_dump()), processor, family)


def evaluated_rule(sources: PackageSources, processor: ProcessorMixin, family: ModelFamily) -> NoRepeatNgrams | None:
    """Return what the evaluation did not let an answer repeat; None for greedy search alone."""
    return NoRepeatSettings.of(sources.report.reading.model_dump(), family).rule(processor, family)


def _check_evaluation(
    config: ExportConfig, report: EvaluationReport, manifest: DatasetManifest, adapter_sha256: str
) -> None:
    where = str(config.evaluation_dir / report.FILE)
    evaluated = report.models.adapter
    if evaluated is None:
        raise UserError("the evaluation has no adapter", where=where, mend="evaluate with adapter_dir")
    if evaluated.sha256 != adapter_sha256:
        raise UserError(
            "the evaluation is of another adapter than adapter_dir (their sha256 differ)",
            where=where,
            mend="evaluate this adapter",
        )
    if report.dataset.digest != manifest.digest:
        raise UserError(
            "the evaluation read another dataset than dataset_dir (the digests differ)",
            where=where,
            mend="give the dataset_dir that was evaluated",
        )


def _read_verdict(gate_dir: Path | None, adapter_sha256: str, report: EvaluationReport) -> GateVerdict | None:
    if gate_dir is None:
        return None
    verdict = GateVerdict.read(gate_dir)
    where, mend = str(gate_dir / verdict.FILE), "run the gate on this evaluation"
    if (verdict.adapter_sha256, verdict.dataset_digest) != (adapter_sha256, report.dataset.digest):
        problem = "the verdict is of another adapter, or of another dataset (the digests differ)"
        raise UserError(problem, where=where, mend=mend)
    others = verdict.differences_from(report.rows)
    if verdict.normalization != report.normalization:
        others.append(f"its texts are compared as {verdict.normalization}, the report's as {report.normalization}")
    if others:
        raise UserError(f"the verdict is of another evaluation: {', '.join(others)}", where=where, mend=mend)
    return verdict


def _include_base(config: ExportConfig, location: str) -> bool:
    if config.include_base_model is not None:
        return config.include_base_model
    folder = Path(location)
    return folder.is_dir() and folder_bytes(folder) <= _LARGEST_BASE_BY_DEFAULT


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _base_name(base_model: str, location: str) -> str:
    return Path(location).name if base_model != TINY_BASE and Path(location).is_dir() else base_model


def _package_name(base_name: str, kind: AdapterKind, adapter_sha256: str) -> str:
    stem = base_name.rpartition("/")[2]
    safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in stem)
    return f"{safe.strip('._-') or 'model'}-{'adapter' if kind == 'adapter' else 'tuned'}-{adapter_sha256[:8]}"


def _read_predictions(path: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    mend = "point evaluation_dir at the evaluate step's output"
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), mend=mend) from error
    predictions = [row for row in rows if row["model"] == "adapter"]
    if not predictions:
        raise UserError("holds no predictions of the adapter", where=str(path), mend=mend)
    return predictions, {row["key"]: row["prediction"] or "" for row in rows if row["model"] == "base"}
