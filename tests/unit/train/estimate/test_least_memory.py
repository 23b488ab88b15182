"""Steps whose weights cannot fit into this machine's memory are refused in one line, before anything is loaded."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from components.benchmark.config import BenchmarkConfig
from components.benchmark.step import run as benchmark
from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run as evaluate
from components.shared.errors import UserError
from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl
from components.train.config import TrainConfig
from components.train.step import run as train
from tests.fixtures.dataset_fixture import Page, write_dataset

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the weights would go to the GPU")

VALUES = 2**40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``dataset``, and ``base``: a model of 2**40 weights, in a file that takes no room on the disk."""
    folder = tmp_path_factory.mktemp("made")
    save_blank_paddleocr_vl(folder / "base")
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [VALUES], "data_offsets": [0, 2 * VALUES]}}).encode()
    with (folder / "base" / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(stream.tell() + 2 * VALUES)
    pages = [Page("one", "one.txt"), Page("two", "two.txt")]
    write_dataset(folder / "dataset", pages)
    return folder


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def refusal_of(step: Any, config: Any) -> str:
    with pytest.raises(UserError) as refused:
        step(config)
    return str(refused.value)


@pytest.mark.parametrize(
    ("settings", "least", "mend"),
    [
        ({}, "loading the weights of .* takes 3686.40 GiB at least", "or set load_in_4bit, or go on with"),
        ({"load_in_4bit": True}, "takes 460.80 GiB at least", "or go on with ignore_memory_estimate: true"),
        ({"peft": "none"}, "loading and training the weights of .* takes 14745.60 GiB at least", "peft: lora"),
    ],
)
def test_a_training_that_cannot_fit_is_refused(
    made: Path, tmp_path: Path, settings: dict[str, Any], least: str, mend: str
) -> None:
    places = {"dataset_dir": made / "dataset", "base_model": str(made / "base"), "output_dir": tmp_path / "adapter"}
    said = refusal_of(train, TrainConfig.model_validate({**places, **settings}))
    assert said.startswith("memory limit: ") and "\n" not in said
    assert "GiB is allowed for this program, which has taken" in said
    assert re.search(least, said)
    assert "; give the step more memory (docker: --memory), or " in said and mend in said
    assert not (tmp_path / "adapter").exists()


def test_on_kubernetes_the_mend_names_the_environments_key(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    config = EvaluateConfig(
        dataset_dir=made / "dataset", base_model=str(made / "base"), output_dir=tmp_path / "out", classic_ocr=False
    )
    said = refusal_of(evaluate, config)
    assert "takes 3686.40 GiB at least" in said
    assert said.endswith("; raise resources.gpu.memory_limit in the environment's file")
    assert not (tmp_path / "out").exists()


def test_a_benchmark_that_cannot_fit_is_refused(made: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(
        dataset_dir=made / "dataset",
        base_model=str(made / "base"),
        output_dir=tmp_path / "out",
        contenders=["standard"],
    )
    said = refusal_of(benchmark, config)
    assert said.startswith("benchmark: train: memory limit: loading the weights of ") and "\n" not in said
    assert not (tmp_path / "out").exists()
