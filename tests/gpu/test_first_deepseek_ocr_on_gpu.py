"""A tiny first DeepSeek-OCR on a CUDA device: both backends train it alike, and Unsloth loads this project's class.

python -m pytest -m gpu tests/gpu/test_first_deepseek_ocr_on_gpu.py        (about 5 minutes, most of it Unsloth's start)
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr
from tests.gpu.gpu_training import base_and_dataset, finished, settings_of, trained_side_by_side

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"),
]
WITHOUT_UNSLOTH = pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs unsloth")
LOAD = """
import json, sys
from pathlib import Path
from components.train.backends.unsloth import UnslothBackend
from components.train.config import TrainConfig
folder = Path(sys.argv[1])
model = UnslothBackend().load(TrainConfig(dataset_dir=folder, output_dir=folder, base_model=str(folder / "base"))).model
base = model.get_base_model()
text = type(base.model.language_model)
print(json.dumps([type(base).__module__, type(base).__name__, base.config.model_type, text.__name__]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_and_dataset(tmp_path_factory.mktemp("gpu"), save_tiny_deepseek_ocr)


@WITHOUT_UNSLOTH
@pytest.mark.parametrize("precision", [{}, {"load_in_4bit": True}])
def test_unsloth_and_standard_train_the_same(made: Path, tmp_path: Path, precision: dict[str, bool]) -> None:
    backends = ({"backend": backend, **precision} for backend in ("standard", "unsloth"))
    standard, unsloth = trained_side_by_side(made, tmp_path, *backends)
    assert standard["trainable_parameters"] == unsloth["trainable_parameters"]
    assert standard["tokens_per_step"] == unsloth["tokens_per_step"]
    assert unsloth["losses"] == pytest.approx(standard["losses"], rel=5e-3)


@WITHOUT_UNSLOTH
def test_unsloth_loads_the_class_of_this_project(made: Path) -> None:
    answer = subprocess.run([sys.executable, "-c", LOAD, str(made)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
    module, *names = json.loads(answer.stdout.splitlines()[-1])
    assert module == "components.shared.models.deepseek_ocr.modeling"
    assert names == ["DeepseekOCRForCausalLM", "deepseek_vl_v2", "DeepseekOcr2TextModel"]


def test_a_trained_adapter_reads_with_recorded_steps(made: Path, tmp_path: Path) -> None:
    finished("train", settings_of(made, tmp_path / "adapter", backend="standard"))
    evaluation = {
        **{"dataset_dir": str(made / "dataset"), "base_model": str(made / "base"), "classic_ocr": False},
        **{"adapter_dir": str(tmp_path / "adapter"), "output_dir": str(tmp_path / "evaluation"), "max_new_tokens": 16},
    }
    finished("evaluate", evaluation)
    rows = json.loads((tmp_path / "evaluation" / "report.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["base", "adapter"] and all(row["failure_rate"] == 0 for row in rows)
