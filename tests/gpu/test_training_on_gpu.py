"""Both backends train a small DeepSeek-OCR-2 alike on a CUDA device, and its experts are really quantised.

python -m pytest tests/gpu        (needs a CUDA device, bitsandbytes and unsloth)
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.gpu_training import base_and_dataset, trained_side_by_side

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

EXPERTS = 4 * (2 * 32 * 64 + 64 * 32)  # experts x (gate and up + down), one layer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_and_dataset(tmp_path_factory.mktemp("gpu"))


@pytest.mark.parametrize("precision", [{}, {"load_in_4bit": True}, {"load_in_8bit": True}])
def test_unsloth_and_standard_train_the_same(made: Path, tmp_path: Path, precision: dict[str, bool]) -> None:
    pytest.importorskip("bitsandbytes")
    if importlib.util.find_spec("unsloth") is None:
        pytest.skip("needs unsloth")
    backends = ({"backend": backend, **precision} for backend in ("standard", "unsloth"))
    standard, unsloth = trained_side_by_side(made, tmp_path, *backends)
    assert standard["trainable_parameters"] == unsloth["trainable_parameters"]
    assert standard["tokens_per_step"] == unsloth["tokens_per_step"]
    assert standard["learning_rates"] == unsloth["learning_rates"]
    assert unsloth["losses"] == pytest.approx(standard["losses"], rel=5e-3)


def test_the_experts_are_in_four_bits(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    settings = {"backend": "standard", "load_in_4bit": True}
    packed, left = trained_side_by_side(made, tmp_path, settings, settings | {"quantize_experts": False})
    difference = (
        packed["details"]["frozen_weights"]["nf4"]["values"] - left["details"]["frozen_weights"]["nf4"]["values"]
    )
    assert difference == EXPERTS
    assert packed["losses"] == pytest.approx(left["losses"], rel=1e-2)


@pytest.mark.parametrize("backend", ["standard", "unsloth"])
def test_a_larger_memory_cap_holds_more(made: Path, tmp_path: Path, backend: str) -> None:
    if backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        pytest.skip("needs unsloth")
    small, large = (probed(made, tmp_path, backend, gib) for gib in (1.0, 2.0))
    for part, unit in (("largest_batch", "pages"), ("longest_context", "tokens")):
        assert small[part]["status"] == large[part]["status"] == "ok", (small[part], large[part])
        assert 0 < small[part][unit] < large[part][unit] and not large[part]["at_limit"]
        # At least one trial ran out of memory, and the process continued and found a size that fits.
        assert {trial["fits"] for trial in small[part]["trials"]} == {True, False}
    assert large["largest_batch"]["peak_memory_bytes"]["reserved"] <= 2 * 2**30
    assert large["generation"]["tokens_per_page"] == 8


def probed(made: Path, folder: Path, backend: str, cap_gib: float) -> dict[str, Any]:
    """Probe an untrained adapter with a cap on device memory, in a separate process."""
    train = {"dataset_dir": str(made / "dataset"), "base_model": str(made / "base"), "output_dir": str(folder)}
    settings = {"train": {**train, "backend": backend}, "memory_cap_gib": cap_gib, "cer_pages": 0}
    settings |= {"result_file": str(folder / "probes.json"), "generation_tokens": 8, "generation_batch_size": 2}
    file = folder / "probe.json"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "components.train.probes.probe", "--config", str(file)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads((folder / "probes.json").read_text())
