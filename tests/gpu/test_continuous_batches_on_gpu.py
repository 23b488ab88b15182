"""Pages that enter and leave a batch of replayed CUDA graphs read as alone; the service's engine uses them.

python -m pytest tests/gpu/test_continuous_batches_on_gpu.py        (needs a CUDA device)
"""

from pathlib import Path

import pytest
import torch

from components.serve.adapters.sources import ModelFiles
from components.serve.config import ServeConfig
from components.serve.engines.running_rows import RunningRows
from components.serve.offline.local_reader import LocalReader
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from tests.fixtures.continuous_reading import LENGTHS, PAGES, ContinuousReading
from tests.fixtures.drawn_pages import drawn_page

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("family", ["tiny-base", "deepseek_ocr2"])
def test_rows_of_replayed_steps_write_what_each_page_alone_writes(family: str, tmp_path: Path) -> None:
    base = family
    if family != "tiny-base":
        base = str(tmp_path / "model")
        save_tiny_deepseek_ocr2(Path(base))
    reading = ContinuousReading(base, "cuda")
    rows = RunningRows(reading.model, most_rows=3, steps_at_once=8, fixed_width=True)
    assert reading.read(rows) == {page: reading.alone(page) for page in range(len(PAGES))}
    # transformers loops over float32 experts on the host.
    assert (rows._replay is not None) == (family == "tiny-base"), "the step was recorded"


def test_steps_through_experts_are_recorded_in_16_bits(tmp_path: Path) -> None:
    save_tiny_deepseek_ocr2(tmp_path / "model")
    reading = ContinuousReading(str(tmp_path / "model"), "cuda", torch.bfloat16)
    rows = RunningRows(reading.model, most_rows=3, steps_at_once=8, fixed_width=True)
    found = reading.read(rows)
    assert [len(found[page]) for page in range(len(PAGES))] == list(LENGTHS)
    assert rows._replay is not None


def test_the_engine_reads_on_the_gpu() -> None:
    pages = [drawn_page(text, 280, height) for text, height in PAGES]
    config = ServeConfig(base_model="tiny-base", max_batch_size=4, max_new_tokens=64)
    with LocalReader(ModelFiles("tiny-base", None), config) as reader:
        readings = list(reader.read(pages))
    assert all(reading.text and reading.mean_logprob <= 0 for reading in readings)
