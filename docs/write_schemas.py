"""The JSON Schemas of the files that steps leave: ``python docs/write_schemas.py`` writes ``docs/schemas/``."""

import json
from pathlib import Path

from pydantic import BaseModel

from components.export.lineage.lineage_schema import Lineage
from components.serve.samples.stored_reading import StoredReading
from components.shared.artifacts.benchmark_report import BenchmarkReport
from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.run_summary import RunSummary
from components.shared.artifacts.training_record import TrainingRecord

FOLDER = Path(__file__).with_name("schemas")
MODELS: dict[str, type[BaseModel]] = {
    "manifest.json": DatasetManifest,
    "training.json": TrainingRecord,
    "benchmark.json": BenchmarkReport,
    "report.json": EvaluationReport,
    "verdict.json": GateVerdict,
    "summary.json": RunSummary,
    "lineage.json": Lineage,
    "sample.json": StoredReading,
}
"""File name -> its model."""


def schemas() -> dict[Path, str]:
    """Return path -> text of every schema."""
    found = {}
    for name, model in MODELS.items():
        schema = model.model_json_schema(mode="serialization")
        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": name}
        text = json.dumps(dialect | schema, indent=2, ensure_ascii=False) + "\n"
        found[FOLDER / f"{name.removesuffix('.json')}.schema.json"] = text
    return found


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in schemas().items():
        path.write_text(text, encoding="utf-8")
        print(path)
