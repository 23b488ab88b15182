"""One finished run, as the comparison reads it from a folder or from MLflow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.artifacts.benchmark_report import BenchmarkReport
from components.shared.artifacts.dataset_manifest import MANIFEST_FILE, DatasetManifest, read_manifest
from components.shared.artifacts.evaluation_report import EvaluationReport, ReportRow
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.errors import UserError

FILES = {
    "prepare": MANIFEST_FILE,
    "train": TrainingRecord.FILE,
    "evaluate": EvaluationReport.FILE,
    "gate": GateVerdict.FILE,
    "benchmark": BenchmarkReport.FILE,
}
"""A step -> the file with its figures."""
SAMPLES = "samples.parquet"


@dataclass(frozen=True)
class StepFiles:
    """The steps' files of one run; None where a step left none."""

    manifest: DatasetManifest | None = None
    training: TrainingRecord | None = None
    report: EvaluationReport | None = None
    verdict: GateVerdict | None = None
    benchmark: BenchmarkReport | None = None


@dataclass(frozen=True)
class ComparedRun:
    """A finished run.

    Attributes:
        name: its id, unique among the compared ones.
        where: the folder or the MLflow run that it was read from.
        finished: when it ended, in UTC, as text.
        config: dotted key -> value.
        files: what its steps left.
        seconds: a step -> its wall time.
        samples: the evaluation's ``samples.parquet``; None where it was not available.
        notes: what is missing, and why.
    """

    name: str
    where: str
    finished: str
    config: dict[str, Any]
    files: StepFiles
    seconds: dict[str, float]
    samples: Path | None
    notes: list[str] = field(default_factory=list)

    def figures(self, model: str) -> ReportRow | None:
        """Return the evaluation's row of ``model``, e.g. ``adapter``; None where it has none."""
        return self.files.report.row(model) if self.files.report else None

    def versions(self) -> dict[str, str]:
        """Return the versions of the software that made the results; the training's where steps differ."""
        found: dict[str, str] = {}
        for file in (self.files.benchmark, self.files.report, self.files.training):
            found |= file.versions if file else {}
        return found


def read_files(folders: Mapping[str, Path]) -> StepFiles:
    """Read the steps' files; ``folders`` has the folder of each step that left its file there.

    Raises:
        UserError: a file cannot be read, or has another schema version than this version reads.
    """
    return StepFiles(
        manifest=read_manifest(folders["prepare"]) if "prepare" in folders else None,
        training=TrainingRecord.read(folders["train"]) if "train" in folders else None,
        report=EvaluationReport.read(folders["evaluate"]) if "evaluate" in folders else None,
        verdict=GateVerdict.read(folders["gate"]) if "gate" in folders else None,
        benchmark=BenchmarkReport.read(folders["benchmark"]) if "benchmark" in folders else None,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a step's file that has no model.

    Raises:
        UserError: it cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read ({error})", where=str(path.parent)) from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} is not a step's file", where=str(path.parent))
    return content


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys.

    >>> flattened({"seed": 0, "train": {"r": 8}})
    {'seed': 0, 'train.r': 8}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
