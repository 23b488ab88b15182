"""A package warns of pages whose letters are far from those that its model was trained on, and of empty readings."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from components.export.step import run
from components.shared.artifacts.training_record import TrainingRecord
from components.shared.datasets.letter_height import letter_height
from components.shared.digests import sha256_folder
from components.shared.page_reader.letters import seen_scale, warning_about
from tests.fixtures.dataset_fixture import Page, drawn, write_dataset
from tests.fixtures.export_fixture import TEXTS, export_config, make_sources, write_evaluation

LINES = "\n".join(["Several lines of a page with many letters"] * 5)
TRAINED = {"low": 10.0, "median": 12.0, "high": 14.0}


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def test_the_check_goes_by_what_the_model_sees() -> None:
    page = Image.new("RGB", (400, 200))
    as_it_is = {"pixel_values": torch.zeros(1, 3, 200, 400)}
    shrunk = {"pixel_values": torch.zeros(1, 3, 50, 100)}
    assert seen_scale(page.size, as_it_is) == 1.0 and seen_scale(page.size, shrunk) == 0.25
    assert warning_about(page, as_it_is, TRAINED, lambda _: 12.0) is None
    assert warning_about(page, shrunk, TRAINED, lambda _: 48.0) is None, "the processor makes them as small"
    large = warning_about(page, as_it_is, TRAINED, lambda _: 48.0)
    assert large is not None and "4.0 times as high" in large and "scaled by 0.25" in large
    small = warning_about(page, shrunk, TRAINED, lambda _: 12.0)
    assert small is not None and "0.25 times the height" in small and "scaled by 4" in small
    for unknown in (
        warning_about(page, as_it_is, None, lambda _: 48.0),
        warning_about(page, as_it_is, TRAINED, lambda _: None),
    ):
        assert unknown is None


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of an adapter that was trained on pages of one size."""
    folder = make_sources(tmp_path_factory.mktemp("made"))
    training = [Page(LINES, f"training {number}") for number in range(3)]
    (folder / "dataset").rename(folder / "another")
    digest = write_dataset(folder / "dataset", [Page(text, text) for text in TEXTS], training)
    TrainingRecord.read(folder / "adapter").model_copy(update={"dataset_digest": digest}).write(folder / "adapter")
    (folder / "evaluation").rename(folder / "another evaluation")
    write_evaluation(folder / "evaluation", digest, sha256_folder(folder / "adapter"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "off")
        archive = run(export_config(folder, folder / "out", max_new_tokens=2)).archive
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder / "reader"


def test_the_package_knows_the_height_of_the_training_pages(package: Path) -> None:
    letters = json.loads((package / "inference_config.json").read_text())["letters"]
    height = letter_height(opened(drawn(LINES)))
    assert height is not None and letters["pages"] == 3
    assert letters["lowest_pixels"] == letters["highest_pixels"] == round(height)
    assert f"| letter height in pixels | {round(height)} to {round(height)} (" in (package / "README.md").read_text()
    copy = (package / "page_reader" / "letter_height.py").read_bytes()
    assert copy == Path(sys.modules[letter_height.__module__].__file__ or "").read_bytes()


@pytest.mark.slow
def test_a_page_scaled_four_times_is_warned_of(package: Path, tmp_path: Path) -> None:
    page = opened(drawn(LINES))
    page.save(tmp_path / "a.png")
    page.resize((4 * page.width, 4 * page.height)).save(tmp_path / "b.png")
    command = [sys.executable, "inference.py", "--jsonl", str(tmp_path)]
    answer = subprocess.run(command, cwd=package, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    usual, large = [json.loads(line) for line in answer.stdout.splitlines()]
    assert usual["warning"] in (None, "no text was read")
    assert "times as high as those that it was trained on" in large["warning"]
    (said,) = [line for line in answer.stderr.splitlines() if "times as high" in line]
    assert said == f"warning: {tmp_path / 'b.png'} page 1: {large['warning']}"
