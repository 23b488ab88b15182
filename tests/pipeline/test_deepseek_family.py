"""A tiny DeepSeek-OCR-2, with all parts of that family, through every step."""

import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from components.benchmark.config import BenchmarkConfig
from components.benchmark.step import run as benchmark
from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run as evaluate
from components.export.config import ExportConfig
from components.export.step import ExportResult
from components.export.step import run as export
from components.prepare.config import PrepareConfig
from components.prepare.step import run as prepare
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.adapter_loading import load_fine_tuned
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.tiny_base_recipe.tiny_models import MODELS, main, save_tiny_deepseek_ocr2
from components.train.backends.adapter import target_module_names
from components.train.config import TrainConfig
from components.train.step import TrainResult
from components.train.step import run as train

pytestmark = pytest.mark.slow  # all steps together take two minutes

TEXTS = (
    "The old lighthouse keeper wrote the weather into his book every evening.",
    "Seven barges went down the river, loaded with bricks and lime.",
    "A short one.",
    "The orchard behind the mill was planted in the year of the flood, and it still bears.",
)


@dataclass(frozen=True)
class Journey:
    """The outputs of every step, in one folder."""

    folder: Path
    trained: TrainResult
    report: dict[str, Any]
    benchmark: dict[str, Any]
    exported: ExportResult


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("deepseek")
    documents = folder / "documents"
    documents.mkdir()
    for number, text in enumerate(TEXTS):
        (documents / f"{number}.txt").write_text(text)
    dataset, base = folder / "dataset", folder / "base"
    common: dict[str, Any] = {"dataset_dir": dataset, "base_model": str(base)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "off")
        save_tiny_deepseek_ocr2(base)
        # 200 pixels exceed the tiny model's tile of 192: the model gets each page whole and in tiles.
        page = {
            "page_width": 200,
            "page_height": 112,
            "lines_per_page": (1, 2),
            "eval_fraction": 0.3,
            "text_engine": "pillow",
        }
        prepare(PrepareConfig(output_dir=dataset, source=str(documents), max_eval_pages=2, workers=1, **page))
        settings = {"per_device_train_batch_size": 2, "learning_rate": 0.01, "warmup_ratio": 0.0}
        trained = train(TrainConfig(output_dir=folder / "adapter", max_steps=2, **settings, **common))
        evaluate(
            EvaluateConfig(
                adapter_dir=folder / "adapter",
                output_dir=folder / "evaluation",
                max_new_tokens=8,
                classic_ocr=False,
                bootstrap_resamples=100,
                base_size=192,  # not the model's own 256: the package and the merged weights must use this size too
                **common,
            )
        )
        benchmark(
            BenchmarkConfig(
                output_dir=folder / "benchmark",
                contenders=["standard"],
                max_steps=2,
                warmup_steps=1,
                train=settings,
                **common,
            )
        )
        exported = export(
            ExportConfig(
                adapter_dir=folder / "adapter",
                evaluation_dir=folder / "evaluation",
                output_dir=folder / "package",
                merge=True,
                **common,
            )
        )
        report = json.loads((folder / "evaluation" / "report.json").read_text())
        measured = json.loads((folder / "benchmark" / "benchmark.json").read_text())
        yield Journey(folder, trained, report, measured, exported)


def test_the_pages_are_seen_whole_and_in_tiles(journey: Journey) -> None:
    processor = load_processor(str(journey.folder / "base"))
    page = ShardDataset(journey.folder / "dataset", "train")[0]
    inputs = processor(images=[page.image], text=["<image>\nFree OCR."], return_tensors="pt")
    tiles = int(inputs["num_local_patches"][0])
    assert tiles >= 2
    assert inputs["pixel_values_local"].shape == (tiles, 3, 192, 192)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 256 + tiles * 144 + 1


def test_the_adapter_learnt_on_the_language_model(journey: Journey) -> None:
    training = journey.trained.training.model_dump()
    assert training["steps"] == 2
    assert all(math.isfinite(loss) for loss in training["losses"]) and len(training["losses"]) == 2
    assert training["truncated_samples"] == 0
    weights = load_file(journey.folder / "adapter" / "adapter_model.safetensors")
    assert training["trainable_parameters"] == sum(weight.numel() for weight in weights.values())
    attention = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_B.weight"
    shared_expert = "base_model.model.model.language_model.layers.1.mlp.shared_experts.up_proj.lora_B.weight"
    assert weights[attention].abs().max() > 0, "lora_B starts at zero and has to move"
    assert weights[shared_expert].abs().max() > 0
    assert not any("vision_tower" in name or "projector" in name for name in weights)


def predictions(journey: Journey, model: str) -> dict[str, str]:
    rows = pq.read_table(journey.folder / "evaluation" / "samples.parquet").to_pylist()
    return {row["key"]: row["prediction"] for row in rows if row["model"] == model}


def test_base_and_adapter_were_measured(journey: Journey) -> None:
    rows = {row["name"]: row for row in journey.report["rows"]}
    assert list(rows) == ["base", "adapter"]
    for row in rows.values():
        assert row["pages"] == 2 and row["failure_rate"] == 0
        assert math.isfinite(row["cer"]) and row["cer"] > 0.5, "random weights cannot read"
    assert predictions(journey, "base").keys() == predictions(journey, "adapter").keys()
    assert predictions(journey, "base") != predictions(journey, "adapter"), "the adapter changes what is written"


def test_the_standard_trainer_was_benchmarked(journey: Journey) -> None:
    (measured,) = journey.benchmark["measurements"]
    assert (measured["contender"], measured["status"]) == ("standard", "ok")
    assert len(measured["step_seconds"]) == 2 and measured["median_step_seconds"] > 0
    # The same seed, data and settings as the train step: the same training.
    assert measured["losses"] == pytest.approx(journey.trained.training.losses, rel=1e-3)


def test_the_package_sees_pages_as_the_evaluation_did(journey: Journey) -> None:
    assert journey.report["config"]["base_size"] == 192
    with zipfile.ZipFile(journey.exported.archive) as archive:
        settings = json.loads(archive.read(f"{journey.exported.archive.stem}/inference_config.json"))
    assert settings["image_options"] == {
        "size": {"height": 192, "width": 192},
        "tile_size": 192,
        "crop_to_patches": True,
    }


def test_the_package_was_run(journey: Journey) -> None:
    verification = journey.exported.lineage["verification"]
    assert verification["text"]
    expected = predictions(journey, "adapter")[verification["page"]]
    assert "".join(verification["text"].split()) == "".join(expected.split())
    with zipfile.ZipFile(journey.exported.archive) as archive:
        assert archive.testzip() is None
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert {"adapter_model.safetensors", "base_model/model.safetensors", "inference.py", "lineage.json"} <= names


@pytest.mark.parametrize("finetune_vision_layers", [False, True])
def test_the_family_names_the_modules_of_the_real_structure(journey: Journey, finetune_vision_layers: bool) -> None:
    model = load_model(str(journey.folder / "base"), dtype=torch.float32, device=torch.device("cpu"))
    config = TrainConfig(
        dataset_dir=journey.folder, output_dir=journey.folder, finetune_vision_layers=finetune_vision_layers
    )
    names = set(target_module_names(config, model, family_of("deepseek_ocr2")))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    language = {name for name in linear if name.startswith("model.language_model.")}
    assert names == (linear - {"lm_head"} if finetune_vision_layers else language)


def test_a_loaded_adapter_holds_the_weights_of_its_file(journey: Journey) -> None:
    """PEFT 0.21 alone loads none of this family's weights: it renames their keys to names that do not exist."""
    adapter = journey.folder / "adapter"
    model = load_fine_tuned(str(journey.folder / "base"), adapter, dtype=torch.float32, device=torch.device("cpu"))
    held = {name.replace(".default", ""): weight for name, weight in model.named_parameters() if "lora_" in name}
    stored = load_file(adapter / "adapter_model.safetensors")
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], stored[name]) for name in stored)


def test_the_command_writes_the_models_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["deepseek_ocr3", str(tmp_path / "x")])
    said = capsys.readouterr().err
    assert all(name in said for name in MODELS)
    assert main(["deepseek_ocr2", str(tmp_path / "model")]) == 0
    assert main(["deepseek_ocr2", str(tmp_path / "model")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "not empty" in said
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
