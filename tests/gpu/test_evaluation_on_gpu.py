"""The evaluate step through Unsloth reads as it does through transformers; memory that is too small costs no page.

python -m pytest tests/gpu/test_evaluation_on_gpu.py        (needs a CUDA device, and unsloth for the first test)
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif("DEEPSYNTH_TEST_DATASET" not in os.environ, reason="needs DEEPSYNTH_TEST_DATASET, a dataset"),
]
_PROGRAM = "components.evaluate"


def evaluated(folder: Path, *flags: str, before: str = "") -> tuple[dict, list[str]]:
    """Evaluate the tiny base in a process of its own; return its row and its predictions."""
    arguments = ["evaluate", "--dataset_dir", os.environ["DEEPSYNTH_TEST_DATASET"], "--output_dir", str(folder)]
    arguments += ["--max_pages", "12", "--max_new_tokens", "64", "--no-classic_ocr", *flags]
    program = (
        f"import sys, runpy; {before}; sys.argv = {arguments!r}; runpy.run_module({_PROGRAM!r}, run_name='__main__')"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": "off"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=600)
    (row,) = json.loads((folder / "report.json").read_text())["rows"]
    return row, pq.read_table(folder / "samples.parquet")["prediction"].to_pylist()


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs unsloth")
def test_unsloth_reads_about_as_well(tmp_path: Path) -> None:
    standard, _ = evaluated(tmp_path / "standard")
    unsloth, texts = evaluated(tmp_path / "unsloth", "--backend", "unsloth")
    assert unsloth["failure_rate"] == 0 and any(texts)
    # 16-bit kernels differ, and with them a character now and then.
    assert unsloth["cer"] == pytest.approx(standard["cer"], abs=0.02)


def test_a_device_with_little_memory_reads_every_page(tmp_path: Path) -> None:
    whole, texts = evaluated(tmp_path / "whole")
    cap = "import torch; torch.cuda.set_per_process_memory_fraction(0.002)"
    small, again = evaluated(tmp_path / "small", "--per_device_eval_batch_size", "12", before=cap)
    assert small["memory_halvings"] >= 1 and small["failure_rate"] == 0
    assert len(again) == len(texts) and small["cer"] == pytest.approx(whole["cer"], abs=0.02)
