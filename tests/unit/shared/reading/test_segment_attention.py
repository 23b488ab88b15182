"""Attention by segment length gives the features of attention segment by segment, in a few calls."""

from typing import Any

import pytest
import torch

from components.shared.reading.segment_attention import attend_by_segment_length
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from tests.fixtures.packed_encoders import GRIDS, PACKED_ENCODERS, features, packed_encoder, pixels


@pytest.mark.parametrize("name", PACKED_ENCODERS)
def test_the_features_are_the_same_in_fewer_calls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = packed_encoder(name), 0
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(*places: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return attend(*places, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    expected = features(encoder(pixels(name, 0), grid_thw=GRIDS))
    one_by_one, calls = calls, 0
    layers = attend_by_segment_length(encoder)
    found = features(encoder(pixels(name, 0), grid_thw=GRIDS))
    assert layers in (2, 3) and calls < one_by_one
    assert calls <= layers * 4, "at most one call for each length: of pictures, or of whole and cut windows"
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert attend_by_segment_length(encoder) == layers, "a second call changes nothing"


def test_a_model_can_still_be_made_of_the_config() -> None:
    encoder = packed_encoder("qwen2_5_vl")
    config = encoder.config
    assert attend_by_segment_length(encoder)
    type(encoder)(config)  # as the data loader's copy of a model that computes its positions


def test_a_trained_encoder_gets_the_same_gradients() -> None:
    gradients = []
    for by_length in (False, True):
        encoder = packed_encoder("qwen2_5_vl").requires_grad_(True)
        if by_length:
            attend_by_segment_length(encoder)
        encoder(pixels("qwen2_5_vl", 0), grid_thw=GRIDS).pooler_output.square().sum().backward()
        gradients.append(encoder.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def test_an_encoder_that_packs_nothing_is_not_changed(tmp_path: Any) -> None:
    from components.shared.models.model_loading import load_model

    save_tiny_deepseek_ocr2(tmp_path)
    model = load_model(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    assert attend_by_segment_length(model) == 0
