"""SAM's attention gives the same outputs with and without the table of position biases."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.shared.models.model_loading import load_model
from components.shared.reading.sam_attention import fold_position_biases
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2

SIDES = [(256, 256), (192, 128)]  # pixels: the first fills whole windows, the second is padded to them


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepseek") / "model"
    save_tiny_deepseek_ocr2(folder)
    return folder


def encoder(base: Path) -> Any:
    """Return the tiny model's SAM encoder, with position biases large enough to matter."""
    model: Any = load_model(str(base), dtype=torch.float32, device=torch.device("cpu")).eval()
    sam = model.model.vision_tower.sam_encoder
    generator = torch.Generator().manual_seed(0)
    for layer in sam.layers:
        for weight in (layer.attn.rel_pos_h, layer.attn.rel_pos_w, layer.attn.qkv.weight):
            weight.data.normal_(std=0.5, generator=generator)
    return sam


def attended(sam: Any, height: int, width: int) -> torch.Tensor:
    """Return the layers' output for a random picture."""
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: torch.Tensor = sam(pixels).last_hidden_state
    return found


@pytest.mark.parametrize("side", SIDES)
def test_the_outputs_are_the_same(base: Path, side: tuple[int, int]) -> None:
    usual, folded = encoder(base), encoder(base)
    assert fold_position_biases(folded) == 2
    expected = attended(usual, *side)
    assert torch.allclose(attended(folded, *side), expected, atol=1e-5)
    for layer in usual.layers:
        layer.attn.rel_pos_h.data.zero_()
    assert not torch.allclose(attended(usual, *side), expected, atol=1e-2), "the biases would make no difference"


def test_changed_weights_are_seen(base: Path) -> None:
    usual, folded = encoder(base), encoder(base)
    fold_position_biases(folded)
    before = attended(folded, *SIDES[0])
    for sam in (usual, folded):
        with torch.no_grad():
            sam.layers[0].attn.rel_pos_w.mul_(-1)
    after = attended(folded, *SIDES[0])
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.allclose(after, attended(usual, *SIDES[0]), atol=1e-5)


def test_frozen_weights_that_ddp_writes_once_more_are_the_same(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph recorded before reads tensors at their old addresses, so they must stay where they are."""
    folded = encoder(base).requires_grad_(False)
    folded.register_parameter("trained", torch.nn.Parameter(torch.zeros(1)))
    fold_position_biases(folded)
    made: list[torch.Tensor] = []
    make = torch.eye
    monkeypatch.setattr(torch, "eye", lambda *size, **options: made.append(make(*size, **options)) or made[-1])
    before = attended(folded, *SIDES[0])
    version, count = folded.layers[0].attn.rel_pos_h._version, len(made)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.nn.parallel.DistributedDataParallel(folded)
    finally:
        torch.distributed.destroy_process_group()
    assert folded.layers[0].attn.rel_pos_h._version > version, "or the test shows nothing"
    assert torch.equal(attended(folded, *SIDES[0]), before)
    assert count and len(made) == count


def test_with_gradients_the_layers_are_as_they_were(base: Path) -> None:
    usual, folded = encoder(base), encoder(base)
    fold_position_biases(folded)
    pixels = torch.randn(1, 3, *SIDES[0])
    gradients = []
    for sam in (usual, folded):
        sam(pixels).last_hidden_state.sum().backward()
        gradients.append(sam.layers[1].attn.rel_pos_h.grad)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5) and gradients[0].abs().sum() > 0


def test_what_was_made_in_inference_mode_can_be_used_later(base: Path) -> None:
    sam = encoder(base)
    fold_position_biases(sam)
    pixels = torch.randn(1, 3, *SIDES[0])
    with torch.inference_mode():
        inferred = sam(pixels).last_hidden_state
    with torch.no_grad():
        assert torch.equal(sam(pixels).last_hidden_state, inferred)


def test_it_is_done_once_and_other_models_stay_as_they_are(base: Path) -> None:
    sam = encoder(base)
    assert fold_position_biases(sam) == fold_position_biases(sam) == 2
    assert not hasattr(sam.layers[0].attn.forward.__wrapped__, "__wrapped__")
    assert fold_position_biases(torch.nn.Linear(2, 2)) == 0
