"""What tests of trainings share: a blank base model beside a dataset of short pages, and one thread."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from components.prepare.config import PrepareConfig
from components.prepare.step import run as prepare
from components.shared.tiny_models import save_blank_paddleocr_vl
from components.train.config import TrainConfig


@contextmanager
def one_thread_and_no_tracking() -> Iterator[pytest.MonkeyPatch]:
    """Compute with one thread, so that losses are the same to the last digit, and track nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "off")
        yield patch
    torch.set_num_threads(threads)


def base_and_dataset(folder: Path, texts: Sequence[str], pages: int, lines_per_page: tuple[int, int]) -> Path:
    """Make ``base``, a blank model, and ``dataset``, ``pages`` training pages of ``texts``; return ``folder``."""
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    look: dict[str, Any] = {"fonts": ["DejaVuSansMono.ttf"], "font_sizes": [18], "page_width": 224}
    prepare(
        PrepareConfig(
            output_dir=folder / "dataset",
            source=str(folder / "rows.jsonl"),
            max_train_pages=pages,
            lines_per_page=lines_per_page,
            workers=1,
            text_engine="pillow",
            **look,
        )
    )
    save_blank_paddleocr_vl(folder / "base")
    return folder


def boats(documents: int, most_lines: int) -> list[str]:
    """Return texts of 1 to ``most_lines`` short lines."""
    return [
        "\n".join(f"{number * line} boats" for line in range(1, number % most_lines + 2)) for number in range(documents)
    ]


def train_config(made: Path, output: Path, settings: Mapping[str, Any]) -> TrainConfig:
    """Return the config of a training of ``made``'s base on its dataset, where ``settings`` do not say otherwise."""
    places = {"dataset_dir": made / "dataset", "base_model": str(made / "base"), "output_dir": output}
    return TrainConfig.model_validate({**places, **settings})
