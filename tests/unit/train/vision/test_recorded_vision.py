"""On a CPU or with gradients, a vision encoder is called directly; tests/gpu tests the recordings."""

from typing import Any

import torch

from components.train.vision.recorded_vision import recorded


def test_on_a_cpu_and_with_gradients_it_is_called_as_it_is() -> None:
    calls: list[tuple[Any, ...]] = []

    def encode(pixel_values: torch.Tensor, *inputs: Any, **options: Any) -> torch.Tensor:
        """Encode."""
        calls.append((pixel_values, *inputs, options))
        return pixel_values * 2

    replayed, pictures, grid = recorded(encode), torch.ones(2, 3, 4, 4), torch.ones(1)
    assert replayed.__doc__ == "Encode."
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert torch.equal(replayed(pictures, grid, return_dict=True), pictures * 2)
    assert calls == [(pictures, grid, {"return_dict": True})] * 2
