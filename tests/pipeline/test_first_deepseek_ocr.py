"""`deepsynth run` on a tiny first DeepSeek-OCR, in the form in which its checkpoints are published."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr
from components.train.backends.adapter import target_module_names
from components.train.config import TrainConfig
from components.train.step import run as train
from tests.fixtures.training_fixture import one_thread_and_no_tracking
from tests.pipeline.deepsynth_run import command, finish_well

pytestmark = pytest.mark.slow  # a whole run, with merged weights and a package that is run

TEXTS = (
    "The old lighthouse keeper wrote the weather into his book every evening.",
    "Seven barges went down the river, loaded with bricks and lime.",
    "A short one.",
    "The orchard behind the mill was planted in the year of the flood, and it still bears.",
    "Nobody had wound the clock in the hall since the spring.",
    "Two letters came from the north, both without a stamp.",
    "The ferry waits for the doctor only.",
    "In the attic stood a loom, and beside it a chair with three legs.",
)
SETTINGS = {
    # 200 pixels exceed the tiny model's tile of 160: the model gets each page whole and in tiles.
    **{"prepare.resolutions": "[200x112]", "prepare.lines_per_page": "[1, 2]", "prepare.text_engine": "pillow"},
    **{"prepare.eval_fraction": 0.5, "prepare.max_eval_pages": 4, "train.per_device_train_batch_size": 2},
    **{"evaluate.max_new_tokens": 8, "evaluate.max_crops": 4, "gate.min_improvement": -1000, "gate.min_documents": 2},
    "train.finetune_vision_layers": "false",
    **{"gate.max_loop_rate_increase": 1, "export.verify": "true", "export.merge": "true"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "deepseek_ocr"
    save_tiny_deepseek_ocr(folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = tmp_path_factory.mktemp("documents")
    for number, text in enumerate(TEXTS):
        (documents / f"{number}.txt").write_text(text)
    settings = SETTINGS | {"base_model": base, "source": documents}
    root, _, _ = finish_well(command(settings, "--skip", "benchmark"), tmp_path_factory)
    return root / "runs" / "r1"


def test_every_step_takes_it(run: Path) -> None:
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    attention = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_B.weight"
    assert weights[attention].abs().max() > 0, "lora_B starts at zero and has to move"
    assert not any("vision_tower" in name or "projector" in name for name in weights)
    report = json.loads((run / "evaluation" / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["base", "adapter"]
    assert all(row["failure_rate"] == 0 for row in report["rows"])


def test_the_merged_model_has_the_published_form(run: Path, base: Path) -> None:
    (merged,) = [path.parent for path in (run / "package").rglob("merged/config.json")]
    published, saved = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    assert saved.keys() == published.keys()
    assert "model.layers.1.mlp.experts.0.gate_proj.weight" in saved and "model.view_seperator" in saved
    changed = {name for name in saved if not torch.equal(saved[name].float(), published[name].bfloat16().float())}
    assert "model.layers.1.self_attn.q_proj.weight" in changed
    assert not any("sam_model" in name or "vision_model" in name for name in changed)
    config = json.loads((merged / "config.json").read_text())
    assert config["architectures"] == ["DeepseekOCRForCausalLM"] and "language_config" in config
    # Read by transformers alone, it sees the pages as the evaluation did.
    assert AutoProcessor.from_pretrained(merged).image_processor.max_patches == 4
    assert load_processor(str(base)).image_processor.max_patches == 9


def test_the_package_reads_a_page_without_this_project(run: Path, tmp_path: Path) -> None:
    (archive,) = (run / "package").rglob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    (script,) = tmp_path.rglob("inference.py")
    assert (script.parent / "page_reader" / "deepseek_ocr" / "modeling.py").is_file()
    hidden = "import sys, runpy; sys.modules['components'] = None; sys.argv = sys.argv[1:];"
    program = [sys.executable, "-c", f"{hidden} runpy.run_path(sys.argv[0], run_name='__main__')", str(script)]
    read = subprocess.run([*program, str(next(script.parent.glob("*.png")))], capture_output=True, text=True, cwd="/")
    assert read.returncode == 0, read.stderr
    lineage = json.loads((script.parent / "lineage.json").read_text())
    assert "".join(read.stdout.split()) == "".join(lineage["verification"]["text"].split())


def test_kept_features_train_the_same(run: Path, base: Path, tmp_path: Path) -> None:
    common = {"dataset_dir": run / "dataset", "base_model": str(base), "backend": "standard", "max_steps": 3}
    kept = {"vision_features_dir": tmp_path / "features"}
    with one_thread_and_no_tracking():
        plain = train(TrainConfig(output_dir=tmp_path / "plain", **common)).training.losses
        first = train(TrainConfig(output_dir=tmp_path / "first", **common, **kept)).training.losses
        second = train(TrainConfig(output_dir=tmp_path / "second", **common, **kept)).training.losses
    assert list((tmp_path / "features").rglob("*.safetensors"))
    assert first == pytest.approx(plain, rel=1e-4) and second == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("finetune_vision_layers", [False, True])
def test_the_family_names_the_modules_of_the_real_structure(base: Path, finetune_vision_layers: bool) -> None:
    model = load_model(str(base), dtype=torch.float32, device=torch.device("cpu"))
    config = TrainConfig(dataset_dir=base, output_dir=base, finetune_vision_layers=finetune_vision_layers)
    names = set(target_module_names(config, model, family_of("deepseek_vl_v2")))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    language = {name for name in linear if name.startswith("model.language_model.")}
    assert names == (linear - {"lm_head"} if finetune_vision_layers else language)
    assert load_processor(str(base)).image_processor.tile_size == 160
