"""Pages that were prepared one by one become the batch that the processor makes of them together, in every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_processor
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.reading.joined_pages import joined, kind_of
from tests.fixtures.tiny_families import TINY_FAMILIES

SMALL, TALL = Image.new("RGB", (56, 56), "white"), Image.new("RGB", (60, 100), "black")
PAGES = [(SMALL, "Read."), (TALL, "Read the page to its end."), (SMALL, "Go.")]


def inputs_of(processor: Any, model_type: str, pages: list[tuple[Image.Image, str]]) -> dict[str, Any]:
    images, instructions = zip(*pages, strict=True)
    return dict(generation_inputs(processor, family_of(model_type), images, instructions))


@pytest.mark.parametrize("model_type", sorted(TINY_FAMILIES))
def test_pages_of_one_kind_are_joined_as_the_processor_joins_them(model_type: str, tmp_path: Path) -> None:
    TINY_FAMILIES[model_type](tmp_path / "base")
    processor = load_processor(str(tmp_path / "base"))
    alone = [inputs_of(processor, model_type, [page]) for page in PAGES]
    kinds = [kind_of(inputs) for inputs in alone]
    assert kinds[0] == kinds[2], "pages of one size"
    alike = [index for index, kind in enumerate(kinds) if kind == kinds[0]]
    together = inputs_of(processor, model_type, [PAGES[index] for index in alike])
    found = joined([alone[index] for index in alike], processor.tokenizer.pad_token_id)
    assert found.keys() == together.keys()
    for name, value in together.items():
        assert torch.equal(found[name], value), name
