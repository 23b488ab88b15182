"""What export reads, made in two seconds: an adapter with set weights and an evaluation of it, by the contracts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from dataset_fixture import Page, write_dataset
from peft import LoraConfig, get_peft_model

from components.export.config import ExportConfig
from components.shared.gate_verdict import GateVerdict, write_verdict
from components.shared.lineage import sha256_folder, software_versions
from components.shared.model_loading import load_model, load_processor
from components.shared.tiny_models import save_blank_paddleocr_vl

TEXTS = ["one boat", "two boats", "three boats", "four boats"]


def make_sources(folder: Path) -> Path:
    """Make ``base``, ``dataset``, ``adapter`` and ``evaluation`` in ``folder`` and return it."""
    digest = write_dataset(folder / "dataset", [Page(text, f"document-{text}") for text in TEXTS])
    save_blank_paddleocr_vl(folder / "base")
    _write_adapter(folder, digest)
    write_evaluation(folder / "evaluation", digest, sha256_folder(folder / "adapter"))
    return folder


def _write_adapter(folder: Path, dataset_digest: str) -> None:
    torch.manual_seed(0)
    device = torch.device("cpu")
    base = load_model(str(folder / "base"), dtype=torch.float32, device=device)
    targets = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(base, targets).save_pretrained(str(folder / "adapter"))
    (folder / "adapter" / "README.md").unlink()
    load_processor(str(folder / "base")).save_pretrained(folder / "adapter")
    settings = {"base_model": str(folder / "base"), "revision": None, "learning_rate": 0.01, "peft": "lora"}
    training = {
        "backend": "standard",
        "base_model": str(folder / "base"),
        "dataset_digest": dataset_digest,
        "config": settings,
        "seed": 0,
        "steps": 3,
        "losses": [3.0, 2.0, 1.0],
        "versions": software_versions(),
    }
    (folder / "adapter" / "training.json").write_text(json.dumps(training), encoding="utf-8")


def write_evaluation(folder: Path, dataset_digest: str, adapter_sha256: str, **changes: Any) -> None:
    """Write a report of base and adapter with made-up figures, and the adapter's predictions."""
    folder.mkdir()
    report = {
        "schema_version": 1,
        "normalization": "nfkc-ws-v1",
        "dataset": {"digest": dataset_digest, "split": "eval", "pages": len(TEXTS), "pages_in_split": len(TEXTS)},
        "models": {"base": {}, "adapter": {"kind": "adapter", "sha256": adapter_sha256}},
        "versions": software_versions(),
        "device": "CPU (test)",
        "dtype": "float32",
        "config": {"max_new_tokens": 8},
        "rows": [figures("base", 0.75), figures("adapter", 0.125)],
        "comparison": {"difference": 0.625, "difference_interval": [0.5, 0.75]},
    }
    (folder / "report.json").write_text(json.dumps({**report, **changes}), encoding="utf-8")
    rows = [
        {"model": "adapter", "key": f"eval-{index:08d}", "prediction": text, "error": None}
        for index, text in enumerate(TEXTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")


def figures(name: str, cer: float) -> dict[str, Any]:
    """Return one row of a report."""
    rates = {"rouge1": 0.9, "rouge2": 0.8, "rougeL": 0.85, "bleu": 50.0, "chrf": 60.0, "exact_page_rate": 0.5}
    counts = {"pages": len(TEXTS), "documents": len(TEXTS), "pages_per_second": 2.0, "seconds": 2.0}
    faults = {"failure_rate": 0.0, "loop_rate": 0.25, "truncation_rate": 0.0}
    interval = [cer / 2, cer * 1.5]
    return {"name": name, "cer": cer, "cer_interval": interval, "wer": 2 * cer, **rates, **counts, **faults}


def export_config(made: Path, output: Path, **changes: Any) -> ExportConfig:
    """Return the config that exports what ``make_sources`` made, without running the package."""
    folders = {"adapter_dir": "adapter", "dataset_dir": "dataset", "evaluation_dir": "evaluation"}
    values: dict[str, Any] = {name: made / folder for name, folder in folders.items()}
    values |= {"base_model": str(made / "base"), "output_dir": output, "verify": False, "model_name": "reader"}
    return ExportConfig.model_validate(values | changes)


def write_gate(made: Path, folder: Path, promoted: bool, **changes: Any) -> Path:
    """Write a gate's folder about the adapter of ``made``."""
    manifest = json.loads((made / "dataset" / "manifest.json").read_text())
    rates = {"challenger_error": 0.125, "reference_error": 0.75, "improvement": 0.625, "min_improvement": 0.0}
    loops = {"challenger_loop_rate": 0.25, "reference_loop_rate": 0.25, "loop_rate_increase": 0.0}
    values: dict[str, Any] = {
        "promoted": promoted,
        "reason": "for the test",
        "rules": [],
        "challenger": "adapter",
        "reference": "base",
        "reference_model": {"base_model": "base", "revision": None},
        "metric": "cer",
        **rates,
        "improvement_interval": (0.5, 0.75),
        **loops,
        "loop_rate_increase_interval": (0.0, 0.0),
        "max_loop_rate_increase": 0.01,
        **{"pages": 4, "documents": 4, "confidence": 0.95, "bootstrap_resamples": 1000, "seed": 0},
        "normalization": "nfkc-ws-v1",
        "dataset_digest": manifest["digest"],
        "adapter_sha256": sha256_folder(made / "adapter"),
    }
    folder.mkdir()
    write_verdict(GateVerdict.model_validate({**values, **changes}), folder)
    return folder
