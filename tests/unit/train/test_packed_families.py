"""Which weights a training in 4 bits packs, where a family's layers are arranged otherwise."""

from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit

from components.train.backends.standard import StandardBackend
from components.train.config import TrainConfig
from tests.fixtures.tiny_families import kosmos2_5


def test_an_output_layer_within_the_language_model_keeps_the_embeddings_weight(tmp_path: Path) -> None:
    # Rows of 64 values: bitsandbytes needs whole blocks on a CPU.
    kosmos2_5(tmp_path / "base", embed_dim=64, tie_word_embeddings=True)
    config = TrainConfig(
        dataset_dir=tmp_path, output_dir=tmp_path / "out", base_model=str(tmp_path / "base"), load_in_4bit=True
    )
    model = StandardBackend().load(config).model.get_base_model()
    language = model.text_model
    packed = [name for name, module in language.named_modules() if isinstance(module, Linear4bit)]
    assert len(packed) == 2 * 6 and all(".layers." in name for name in packed)
    assert language.lm_head.weight is language.model.embed_tokens.weight
    assert language.lm_head(torch.ones(1, 64, dtype=language.lm_head.weight.dtype)).shape == (1, 320)
