"""What KFP's pages show for an artifact: digests and figures as metadata, reports as separate pages."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.export.package.package_layout import EXAMPLE_FILE, LINEAGE_FILE
from components.shared.artifacts.benchmark_report import BenchmarkReport
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.digests import sha256_folder
from components.shared.errors import UserError
from pipelines.task_side.task_entry import failing_in_order


@failing_in_order("prepare")
def describe_dataset(dataset: Any, source_digest: str, preview: Any) -> None:
    """Note the digests and page counts of the manifest in ``dataset.path``, and copy the preview's page."""
    manifest = _json(dataset.path, "manifest.json")
    dataset.metadata["digest"] = manifest["digest"]
    dataset.metadata["source_digest"] = source_digest
    for split, index in manifest["splits"].items():
        dataset.metadata[f"{split}_pages"] = sum(shard["nsamples"] for shard in index["shardlist"])
    shutil.copyfile(Path(dataset.path) / "preview.html", preview.path)


@failing_in_order("prepare")
def describe_selection(selection: Any, source_digest: str) -> None:
    """Note the digest of the documents' source."""
    selection.metadata["source_digest"] = source_digest


@failing_in_order("prepare")
def describe_partition(pages: Any, partition: int, partitions: int) -> None:
    """Note the partition's number and the number of partitions, for ``partition_folders``."""
    pages.metadata["partition"] = partition
    pages.metadata["partitions"] = partitions


def partition_folders(pages: Sequence[Any]) -> list[Path]:
    """Return the folders of all partitions' pages, by partition.

    They are checked because KFP 2.17 does not guarantee an order, and a list of artifacts that crosses a sub-pipeline
    arrives with the last one only (kubeflow/pipelines#13900).

    Raises:
        UserError: a partition is missing or occurs twice.
    """
    partitions = int(pages[0].metadata["partitions"]) if pages else 0
    folders = sorted((int(artifact.metadata["partition"]), Path(artifact.path)) for artifact in pages)
    arrived = [partition for partition, _ in folders]
    if not arrived or arrived != list(range(partitions)):
        raise UserError(
            f"the pages of partitions {arrived} arrived, not of 0 to {partitions - 1}",
            where="the artifacts that were collected from the tasks that draw",
            mend="run those tasks again; the list must not cross a sub-pipeline on its way",
        )
    return [folder for _, folder in folders]


@failing_in_order("train")
def describe_adapter(adapter: Any, metrics: Any) -> None:
    """Note what the adapter was trained on, and its last loss."""
    training = TrainingRecord.read(Path(adapter.path))
    adapter.metadata["sha256"] = sha256_folder(Path(adapter.path))
    adapter.metadata["dataset_digest"] = training.dataset_digest
    adapter.metadata["base_model"] = training.base_model
    adapter.metadata["backend"] = training.backend
    for final_loss in training.losses[-1:]:  # empty if a training stopped early and was then killed
        metrics.log_metric("final_loss", final_loss)
    metrics.log_metric("steps", training.steps)


@failing_in_order("evaluate")
def describe_evaluation(evaluation: Any, report: Any, metrics: Any) -> None:
    """Log each row's error rates, and copy the report's page."""
    content = EvaluationReport.read(Path(evaluation.path))
    evaluation.metadata["dataset_digest"] = content.dataset.digest
    for row in content.rows:
        for name in ("cer", "wer", "rougeL", "loop_rate", "pages_per_second"):
            metrics.log_metric(f"{row.name}_{name}", getattr(row, name))
    shutil.copyfile(Path(evaluation.path) / "report.html", report.path)


@failing_in_order("benchmark")
def describe_benchmark(benchmark: Any, report: Any) -> None:
    """Note which trainers ran, and copy the benchmark's page."""
    content = BenchmarkReport.read(Path(benchmark.path))
    for run in content.measurements:
        benchmark.metadata[f"{run.contender}_{run.repeat}"] = run.status
    shutil.copyfile(Path(benchmark.path) / "benchmark.html", report.path)


@failing_in_order("gate")
def describe_verdict(verdict: Any, summary: Any) -> None:
    """Note the gate's decision and its figures, and copy its page."""
    verdict.metadata.update(GateVerdict.read(Path(verdict.path)).tags())
    shutil.copyfile(Path(verdict.path) / "verdict.md", summary.path)


@failing_in_order("export")
def describe_package(package: Any, model_card: Any) -> None:
    """Note the package's digest and what vLLM serves of it, and copy its model card."""
    from components.export.servable.serving_files import SERVED_FOLDER, SERVING_FILE  # imports torch

    package.metadata["sha256"] = sha256_folder(Path(package.path))
    packed = _json(package.path, LINEAGE_FILE)["package"]
    if f"{SERVED_FOLDER}/{SERVING_FILE}" in packed:
        with_adapter = f"{SERVED_FOLDER}/adapter_model.safetensors" in packed
        package.metadata["serving"] = (
            f"vllm: the folder {SERVED_FOLDER} in the zip" if with_adapter else "vllm: the whole model"
        )
    card = (Path(package.path) / "README.md").read_text(encoding="utf-8")
    # KFP shows the card alone: the picture beside it is named instead.
    without_picture = re.sub(rf"(?m)^!\[[^\]]*\]\({re.escape(EXAMPLE_FILE)}\)$", f"(`{EXAMPLE_FILE}`)", card)
    Path(model_card.path).write_text(without_picture, encoding="utf-8")


def _json(folder: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    return content
