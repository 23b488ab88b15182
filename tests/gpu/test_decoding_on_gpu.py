"""Replayed CUDA graphs read pages as step-by-step generation does, batch after batch, with and without an adapter.

python -m pytest tests/gpu/test_decoding_on_gpu.py        (needs a CUDA device)
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.reading.graphed_decoding import GraphedDecoding
from components.shared.reading.image_text_inputs import generation_inputs
from components.shared.reading.transcriber import Transcriber

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif("DEEPSYNTH_TEST_DATASET" not in os.environ, reason="needs DEEPSYNTH_TEST_DATASET, a dataset"),
]

MAX_NEW_TOKENS = 400


@pytest.fixture(scope="module")
def reading() -> tuple[Any, Any, ShardDataset]:
    # float32: in 16 bits two tokens are often equally likely, and then different kernels choose different ones.
    model = load_model("tiny-base", dtype=torch.float32, device=torch.device("cuda", 0)).eval()
    return model, load_processor("tiny-base"), ShardDataset(Path(os.environ["DEEPSYNTH_TEST_DATASET"]), "train")


@pytest.mark.parametrize("rule", [None, NoRepeatNgrams(3, 20)])
def test_pages_read_the_same_with_replayed_steps(
    reading: tuple[Any, Any, ShardDataset], rule: NoRepeatNgrams | None
) -> None:
    model, processor, dataset = reading
    family = family_of(model.config.model_type)
    graphed, plain = (
        Transcriber(model, processor, family, MAX_NEW_TOKENS, graphed=each, no_repeat=rule) for each in (True, False)
    )
    pages = [dataset[index] for index in range(12)]
    for batch in (pages[:5], pages[5:10], pages[10:]):
        found = [each.read(batch) for each in (graphed, plain)]
        texts = [[prediction.text for prediction in predictions] for predictions in found]
        assert texts[0] == texts[1] and any(texts[0])
        means = [[prediction.mean_logprob for prediction in predictions] for predictions in found]
        assert means[0] == pytest.approx(means[1], abs=1e-3)


def test_a_step_is_recorded_and_pays(reading: tuple[Any, Any, ShardDataset]) -> None:
    model, processor, dataset = reading
    family = family_of(model.config.model_type)
    pages = [dataset[index] for index in range(4)]
    inputs = generation_inputs(processor, family, [page.image for page in pages], [None] * 4).to("cuda")
    decoding = GraphedDecoding(model, [], 0)
    assert decoding.supports()

    def seconds(generate: Any) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        generate()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    options = {"do_sample": False, "min_new_tokens": 128, "max_new_tokens": 128}
    for _ in range(2):
        replayed = seconds(lambda: decoding.generate(inputs, 128))
        stepwise = seconds(lambda: model.generate(**inputs, **options))
    assert replayed < stepwise / 1.5
