"""Finished runs for tests of their comparison: real files of every step but the slow ones' content."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from components.evaluate.samples_file import SCHEMA
from components.gate.config import GateConfig
from components.gate.step import run as run_gate
from components.shared.statistics import DocumentBootstrap
from components.shared.tracking import step_run
from pipelines.comparison.compared_run import DOCUMENTS
from pipelines.config import pipeline_config
from tests.unit.dataset_fixture import Page, write_dataset

PROFILE = "nfkc-ws-v1"
LENGTH = 1000
FOLDERS = {"prepare": "dataset", "train": "adapter", "evaluate": "evaluation", "gate": "gate", "benchmark": "benchmark"}


def finished_run(
    runs_dir: Path,
    run_id: str,
    adapter_edits: Sequence[int],
    *,
    texts: Sequence[str] = ("one", "two", "three"),
    pages: slice = slice(None),
    **train: Any,
) -> Path:
    """Write the folder of a run whose adapter makes these character edits, one number for each page of 1,000.

    The base makes 500 on each; a page is a document. ``texts`` are drawn into the dataset, ``pages`` are evaluated.
    """
    folder = runs_dir / run_id
    digest = write_dataset(folder / "dataset", [Page(text, text) for text in texts])
    config = pipeline_config({"train": {"learning_rate": 1e-4, **train}}, "test").model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    _write(folder / "adapter" / "training.json", _training(config["train"]))
    _write_evaluation(folder / "evaluation", digest, list(enumerate(adapter_edits))[pages])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "off")
        run_gate(GateConfig(evaluation_dir=folder / "evaluation", output_dir=folder / "gate", min_documents=2))
    step = {"median": 0.5, "lowest": 0.4, "highest": 0.6, "values": [0.4, 0.6]}
    contender = {"contender": "standard", "status": "ok", "reason": None, "figures": {"median_step_seconds": step}}
    _write(folder / "benchmark" / "benchmark.json", {"schema_version": 3, "contenders": [contender], "ratios": []})
    seconds = {"seconds_per_step": {"prepare": 1.5, "train": 20.25}, "seconds_total": 30.0}
    _write(folder / "summary.json", {"schema_version": 1, "run_id": run_id, **seconds})
    return folder


def log_run(folder: Path, uri: str, kfp_run_id: str, steps: Sequence[str] = tuple(FOLDERS)) -> None:
    """Log a run's files as its steps do."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("KFP_RUN_ID", kfp_run_id)
        for step in steps:
            shared = {"seed": 0, "base_model": "tiny-base", "output_dir": "/somewhere"}
            with step_run(step, shared | config[step]) as tracked:
                names = [DOCUMENTS[step], "samples.parquet"] if step == "evaluate" else [DOCUMENTS[step]]
                for name in names:
                    tracked.log_artifact(folder / FOLDERS[step] / name)


def _training(config: dict[str, Any]) -> dict[str, Any]:
    losses = [2.0, 1.0, config["learning_rate"] * 1000]
    return {
        "base_model": "tiny-base",
        "backend": "standard",
        "device": "cpu",
        "steps": 3,
        "losses": losses,
        "loss_steps": [1, 2, 3],
        "step_seconds": [0.5, 0.25, 0.75],
        "trainable_parameters": 1_234_567,
        "peak_memory_bytes": {"resident": 3 * 2**30, "allocated": None},
        "versions": {"python": "3.11", "torch": "2.13.0", "git_commit": "ab" * 20},
    }


def _write_evaluation(folder: Path, digest: str, pages: list[tuple[int, int]]) -> None:
    models = {"base": [(key, 500) for key, _ in pages], "adapter": pages}
    rows = [
        {
            "model": model,
            "key": f"eval-{key:08d}",
            "source_id": f"document {key}",
            "text": f"label {key}",
            "edits": edits,
            "reference_length": LENGTH,
            "word_edits": edits // 10,
            "reference_words": LENGTH // 5,
            "loop": False,
        }
        for model, counts in models.items()
        for key, edits in counts
    ]
    folder.mkdir()
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"normalization": PROFILE}))
    pq.write_table(table, folder / "samples.parquet")
    report = {
        "schema_version": 1,
        "normalization": PROFILE,
        "dataset": {"digest": digest, "source_digest": "f" * 64, "split": "eval", "pages": len(pages)},
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "models": {"base": {"base_model": "tiny-base"}, "adapter": {"kind": "peft", "sha256": "a" * 64}},
        "rows": [_figures(model, [edits for _, edits in counts]) for model, counts in models.items()],
    }
    _write(folder / "report.json", report)


def _figures(model: str, edits: list[int]) -> dict[str, Any]:
    bootstrap = DocumentBootstrap([str(number) for number in range(len(edits))], 200, 0)
    lengths = [float(LENGTH)] * len(edits)
    rate = sum(edits) / sum(lengths)
    return {
        "name": model,
        "cer": rate,
        "cer_interval": bootstrap.interval([float(count) for count in edits], lengths),
        "wer": rate / 2,
        "wer_interval": None,
        "rougeL": 1 - rate,
        "loop_rate": 0.0,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
