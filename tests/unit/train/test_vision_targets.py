"""``finetune_vision_layers`` adapts each family's vision encoder and projector; otherwise only language is adapted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from components.shared.errors import UserError
from components.shared.models.deepseek_ocr.registration import register_deepseek_ocr
from components.shared.models.model_families import family_of, in_language_model
from components.train.backends.adapter import target_module_names
from components.train.config import TrainConfig
from tests.fixtures.family_table import FAMILY_TABLE

FAMILIES = [row.model_type for row in FAMILY_TABLE if row.status != "refused"]
VISION = {  # the ends of all names outside the language model, for families whose names are their own
    "got_ocr2": {"attn.proj", "attn.qkv", "mlp.lin1", "mlp.lin2", "multi_modal_projector.multimodal_projector"},
    "kosmos-2.5": {
        *("attention.key", "attention.output", "attention.query", "attention.value"),
        *("mlp.wi_0", "mlp.wi_1", "mlp.wo", "embeddings.patch_projection", "image_to_text_projection.dense"),
        *("x_attn.k_proj", "x_attn.out_proj", "x_attn.q_proj", "x_attn.v_proj"),
    },
    "lighton_ocr": {
        *("attention.k_proj", "attention.o_proj", "attention.q_proj", "attention.v_proj"),
        *("feed_forward.down_proj", "feed_forward.gate_proj", "feed_forward.up_proj"),
        *("vision_projection.linear_1", "vision_projection.linear_2", "patch_merger.merging_layer"),
    },
    "qwen2_5_vl": {"attn.proj", "attn.qkv", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.0", "mlp.2"},
    "qwen3_vl": {
        *("attn.proj", "attn.qkv", "mlp.linear_fc1", "mlp.linear_fc2", "merger.linear_fc1", "merger.linear_fc2"),
        *(f"{number}.linear_fc{layer}" for number in range(3) for layer in (1, 2)),  # deepstack_merger_list
    },
}


def on_meta(model_type: str) -> Any:
    """Return the family's class with two layers in each part, without memory."""
    register_deepseek_ocr()
    config: Any = AutoConfig.for_model(model_type)
    for part in filter(None, (config, *(getattr(config, name, None) for name in ("text_config", "vision_config")))):
        for layers in ("num_hidden_layers", "depth", "num_global_layers"):
            if isinstance(getattr(part, layers, None), int):
                setattr(part, layers, 2)
        if getattr(part, "pad_token_id", None) is not None:
            part.pad_token_id = 0
        if hasattr(part, "mlp_layer_types"):
            part.mlp_layer_types = ["dense", "sparse"]
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def names(model: Any, model_type: str, **settings: Any) -> list[str]:
    config = TrainConfig(dataset_dir=Path("/data"), output_dir=Path("/out"), **settings)
    return target_module_names(config, model, family_of(model_type))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_all_vision_layers_are_adapted_if_they_are_asked_for(model_type: str) -> None:
    model = on_meta(model_type)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    outside = {name for name in linear if not in_language_model(name)}
    heads = {name for name in outside if name.endswith("lm_head") or ".head." in name}
    without = names(model, model_type)
    assert without and all(map(in_language_model, without))
    asked = names(model, model_type, finetune_vision_layers=True)
    assert set(asked) == set(without) | (outside - heads) and outside - heads
    if model_type in VISION:
        assert {".".join(name.rsplit(".", 2)[-2:]) for name in outside - heads} == VISION[model_type]


def test_vision_layers_that_names_leave_out_are_an_error() -> None:
    model = on_meta("qwen2_5_vl")
    with pytest.raises(UserError, match=r"finetune_vision_layers true with target_modules .*no linear module outside"):
        names(model, "qwen2_5_vl", finetune_vision_layers=True, target_modules=["q_proj"])
    chosen = names(model, "qwen2_5_vl", finetune_vision_layers=True, target_modules=["q_proj", "qkv"])
    assert {name.rpartition(".")[2] for name in chosen} == {"q_proj", "qkv"}


class Unnamed(torch.nn.Module):
    """A model whose language model is called neither ``language_model`` nor ``text_model``."""

    def __init__(self) -> None:
        super().__init__()
        for part in ("vision_tower", "image_projection", "decoder"):
            self.add_module(part, torch.nn.ModuleDict({"fc1": torch.nn.Linear(2, 2)}))


def test_ends_of_names_adapt_no_vision_module_of_a_model_without_a_language_model_by_name() -> None:
    model, parts = Unnamed(), ["vision_tower.fc1", "image_projection.fc1", "decoder.fc1"]
    assert names(model, "blip", target_modules=["fc1"]) == ["decoder.fc1"]
    assert names(model, "blip", target_modules=["vision_tower.fc1"]) == ["vision_tower.fc1"]
    assert names(model, "blip", target_modules=["fc1"], finetune_vision_layers=True) == parts
