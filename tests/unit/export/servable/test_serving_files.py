"""``export.serving``: the adapter under vLLM's names, the config of its class, and what is refused by name."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from components.export.config import ExportConfig
from components.export.step import run
from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr, save_tiny_deepseek_ocr2
from components.shared.vllm.adapter_names import write_served_adapter
from components.shared.vllm.deepseek_config import first_deepseek_ocr, second_deepseek_ocr
from components.shared.vllm.served_families import SERVED_FAMILIES
from tests.fixtures.export_fixture import export_config, make_sources

DEEPSEEK = {"deepseek_ocr2": save_tiny_deepseek_ocr2, "deepseek_vl_v2": save_tiny_deepseek_ocr}


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def adapter_of(base: Path, folder: Path, **settings: Any) -> Path:
    model = load_model(str(base), dtype=torch.float32, device=torch.device("cpu"))
    get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **settings)).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("family", DEEPSEEK)
def test_a_deepseek_adapter_has_the_names_of_the_published_checkpoint(family: str, tmp_path: Path) -> None:
    """vLLM's class maps the checkpoint's names; so an adapter's modules must be modules of the checkpoint."""
    DEEPSEEK[family](tmp_path / "base")
    adapter = adapter_of(tmp_path / "base", tmp_path / "adapter", target_modules=family_of(family).language_modules)
    (tmp_path / "served").mkdir()
    assert write_served_adapter(adapter, SERVED_FAMILIES[family], tmp_path / "served") == 4
    ours = load_file(adapter / "adapter_model.safetensors")
    served = load_file(tmp_path / "served" / "adapter_model.safetensors")
    with safe_open(tmp_path / "base" / "model.safetensors", "pt") as weights:
        published = set(weights.keys())
    modules = {re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", name) for name in served}
    assert {f"{module}.weight" for module in modules} <= published
    assert any(".shared_experts." in module for module in modules)
    renamed = {name.replace("model.language_model.", "model."): tensor for name, tensor in ours.items()}
    assert renamed.keys() == served.keys() != ours.keys()
    assert all(torch.equal(renamed[name], tensor) for name, tensor in served.items())


def full_size(family: str) -> dict[str, Any]:
    if family == "deepseek_vl_v2":
        from components.shared.models.deepseek_ocr.configuration import DeepseekOcrConfig

        return DeepseekOcrConfig.from_dict({}).to_dict()
    encoder = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    config = AutoConfig.for_model(
        "deepseek_ocr2",
        vision_config={"encoder_config": {**encoder, "num_key_value_heads": 2}},
        text_config={"hidden_size": 1280, "num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"]},
    )
    return dict(config.to_dict())


@pytest.mark.parametrize("family", DEEPSEEK)
def test_the_config_is_deepseeks_own(family: str) -> None:
    make = {"deepseek_ocr2": second_deepseek_ocr, "deepseek_vl_v2": first_deepseek_ocr}[family]
    config = make(full_size(family))
    assert config["architectures"] == [SERVED_FAMILIES[family].vllm_class]
    # What vLLM 0.32's DeepseekVLV2Config and its class read.
    assert (config["model_type"], config["tile_tag"]) == ("deepseek_vl_v2", "2D")
    language = config["language_config"]
    assert "model_type" not in language and language["use_mla"] is False and language["n_group"] == 1
    assert language["first_k_dense_replace"] == 1
    assert config["projector_config"]["n_embed"] == language["hidden_size"] == 1280
    assert config["projector_config"]["input_dim"] == {"deepseek_ocr2": 896, "deepseek_vl_v2": 2048}[family]


def test_other_encoder_sizes_than_vllms_are_refused() -> None:
    config = full_size("deepseek_ocr2")
    config["vision_config"]["encoder_config"]["num_hidden_layers"] = 2
    with pytest.raises(UserError, match=r"in one size, and the base has another: num_hidden_layers 2 \(vLLM: 24\)"):
        second_deepseek_ocr(config)


def qwen_adapter(folder: Path, modules: list[str], **settings: Any) -> Path:
    folder.mkdir()
    tensors = {
        f"base_model.model.{module}.lora_{part}.weight": torch.ones(shape)
        for module in modules
        for part, shape in (("A", (4, 8)), ("B", (8, 4)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


Q_PROJ = "model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("modules", "settings", "said"),
    [
        (
            [Q_PROJ, "model.visual.blocks.0.attn.qkv"],
            {},
            r"does not adapt 1 of .*: model\.visual\.blocks\.0\.attn\.qkv",
        ),
        (["model.layers.0.self_attn.q_proj"], {}, r"does not adapt 1 of .*: model\.layers\.0\.self_attn\.q_proj"),
        ([Q_PROJ], {"use_dora": True}, "does not load an adapter with use_dora"),
        ([Q_PROJ], {"init_lora_weights": "pissa"}, "does not load an adapter with init_lora_weights 'pissa'"),
        ([Q_PROJ], {"bias": "lora_only"}, "does not load an adapter with bias 'lora_only'"),
        ([Q_PROJ], {"modules_to_save": ["lm_head"]}, "does not load an adapter with modules_to_save"),
    ],
)
def test_what_vllm_would_skip_or_refuse_is_refused_by_name(
    modules: list[str], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    adapter = qwen_adapter(tmp_path / "adapter", modules, **settings)
    with pytest.raises(UserError, match=said) as refused:
        write_served_adapter(adapter, SERVED_FAMILIES["qwen2_vl"], tmp_path)
    assert "merge: true" in str(refused.value)


def test_the_rank_is_the_largest_of_all_modules(tmp_path: Path) -> None:
    adapter = qwen_adapter(tmp_path / "adapter", [Q_PROJ], rank_pattern={"q_proj": 24})
    assert write_served_adapter(adapter, SERVED_FAMILIES["qwen2_vl"], tmp_path) == 24


def test_patterns_that_fit_no_served_name_are_refused(tmp_path: Path) -> None:
    adapter = qwen_adapter(tmp_path / "adapter", [Q_PROJ], alpha_pattern={r"language_model\.layers\.0\..*": 32})
    with pytest.raises(UserError, match="alpha_pattern does not fit the names that vLLM gives"):
        write_served_adapter(adapter, SERVED_FAMILIES["deepseek_ocr2"], tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("made"))


def test_an_adapter_that_vllm_does_not_serve_is_refused_before_any_work(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no LoRA adapter of the family paddleocr_vl.*merge: true"):
        run(export_config(made, tmp_path / "package", serving=["vllm"]))
    assert not (tmp_path / "package").exists()


def test_unknown_engines_are_refused(made: Path, tmp_path: Path) -> None:
    for serving in (["tgi"], ["vllm", "vllm"], "vllm", [""]):
        with pytest.raises(ValidationError, match="serving"):
            ExportConfig.model_validate(export_config(made, tmp_path).model_dump() | {"serving": serving})


def test_the_package_without_serving_has_no_files_for_vllm(made: Path, tmp_path: Path) -> None:
    result = run(export_config(made, tmp_path / "package"))
    with zipfile.ZipFile(result.archive) as package:
        assert not [name for name in package.namelist() if "/vllm/" in name]
        assert "Serve with vLLM" not in package.read("reader/README.md").decode()
