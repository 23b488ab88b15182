"""The evaluation on a GPU: Unsloth reads as well as transformers, and with little memory every page is still read.

python -m pytest tests/gpu/test_evaluation_on_gpu.py        (needs a CUDA device, and unsloth for the first test)
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.evaluate.readers.generation import Transcription, transcribe
from components.evaluate.readers.pages import EvaluationPages
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor, release_memory
from components.shared.reading.transcriber import Transcriber

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif("DEEPSYNTH_TEST_DATASET" not in os.environ, reason="needs DEEPSYNTH_TEST_DATASET, a dataset"),
]
PAGES = 16


def evaluated(folder: Path, backend: str) -> dict:
    """Evaluate the tiny base in a separate process, so that Unsloth is imported first; return its row."""
    flags = ["--dataset_dir", os.environ["DEEPSYNTH_TEST_DATASET"], "--output_dir", str(folder), "--backend", backend]
    flags += ["--max_pages", str(PAGES), "--max_new_tokens", "200", "--no-classic_ocr"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": "off"}
    subprocess.run([sys.executable, "-m", "components.evaluate", *flags], check=True, env=environment, timeout=600)
    (row,) = json.loads((folder / "report.json").read_text())["rows"]
    return dict(row)


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs unsloth")
def test_unsloth_reads_about_as_well(tmp_path: Path) -> None:
    standard, unsloth = evaluated(tmp_path / "standard", "standard"), evaluated(tmp_path / "unsloth", "unsloth")
    assert unsloth["failure_rate"] == standard["failure_rate"] == 0
    # 16-bit kernels differ, so a few characters may differ too.
    assert unsloth["cer"] == pytest.approx(standard["cer"], abs=0.02)


def test_a_device_with_little_memory_reads_every_page() -> None:
    pages = EvaluationPages(ShardDataset(Path(os.environ["DEEPSYNTH_TEST_DATASET"]), "eval"), PAGES, 0)
    model = load_model("tiny-base", dtype=torch.float32, device=torch.device("cuda", 0)).eval()
    processor, family = load_processor("tiny-base"), family_of(model.config.model_type)

    def read(batch_size: int) -> tuple[Transcription, int]:
        release_memory()
        torch.cuda.reset_peak_memory_stats()
        found = transcribe(pages, Transcriber(model, processor, family, 64), batch_size, "base", threads=2)
        return found, torch.cuda.max_memory_reserved()

    (alone, least), (together, most) = read(1), read(PAGES)
    if most - least < 64 * 2**20:
        pytest.skip("the pages are too small to tell a batch's memory from a page's")
    release_memory()
    torch.cuda.set_per_process_memory_fraction((least + most) / 2 / torch.cuda.get_device_properties(0).total_memory)
    try:
        short, _ = read(PAGES)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert short.memory_halvings >= 1 and not any(prediction.error for prediction in short.predictions)
    for found in (alone, together):
        same = sum(a.text == b.text for a, b in zip(found.predictions, short.predictions, strict=True))
        assert same >= PAGES - 2, "sums are rounded in another order, and more is not different"
