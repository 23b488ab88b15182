"""Tesseract reads the prepare step's pages, in every script and with both engines: the drawn text is the label."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz.distance import Levenshtein

from components.prepare.typesetting.fonts import find_fonts
from components.shared.errors import UserError
from tests.fixtures.script_samples import SAMPLES

ROOT = Path(__file__).parents[4]
# Per cent of the label's characters; measured at 24, 28 and 32 pixels: docs/benchmarks/dataset/read_back.md.
MOST_ERRORS = {
    "english": 1, "french": 1, "russian": 1, "greek": 1, "arabic": 3, "persian": 3, "hebrew": 1, "hindi": 1, "tamil": 1,
    "thai": 2, "chinese": 1, "japanese": 2, "korean": 1, "persian with Latin": 4, "english with Hebrew": 8,
    "hindi with English": 5, "japanese with Latin": 3,
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed"),
]


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """The results of tests/benchmarks/read_back.py, by sample and engine."""
    file = tmp_path_factory.mktemp("read_back") / "read_back.json"
    command = [sys.executable, "-m", "tests.benchmarks.read_back", "--renderings", "1", "--json", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = json.loads(file.read_text())["readings"]
    return {(reading["sample"], reading["engine"]): reading for reading in found}


def test_every_sample_has_a_bound() -> None:
    assert set(MOST_ERRORS) == {sample.name for sample in SAMPLES}


@pytest.mark.parametrize("engine", ["pango", "pillow"])
@pytest.mark.parametrize("sample", MOST_ERRORS)
def test_what_tesseract_reads_is_the_label(
    sample: str, engine: str, readings: dict[tuple[str, str], dict[str, Any]]
) -> None:
    reading = readings[sample, engine]
    if engine == "pillow" and sample in ("thai", "hindi with English"):
        assert reading["pages"] == 0, "no one font covers it, or its lines end by a dictionary"
        return
    if reading["not_read"]:
        pytest.skip(reading["not_read"])
    assert reading["pages"] == 1 and reading["characters"] > 60
    assert 100 * reading["errors"] / reading["characters"] <= MOST_ERRORS[sample]


@pytest.mark.parametrize("sample", ["persian", "hebrew", "hindi"])
def test_a_page_without_shaping_is_far_above_the_bound(sample: str) -> None:
    [chosen] = [candidate for candidate in SAMPLES if candidate.name == sample]
    try:
        [face] = find_fonts(["Noto Sans Devanagari" if sample == "hindi" else "DejaVuSans.ttf"])
    except UserError as error:
        pytest.skip(str(error))
    image = Image.new("L", (1024, 700), 255)
    font = ImageFont.truetype(str(face.path), 28, layout_engine=ImageFont.Layout.BASIC)
    words = chosen.text.split()
    lines = [" ".join(words[start : start + 8]) for start in range(0, len(words), 8)]
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((30, 30 + 50 * number), line, fill=0, font=font)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    command = ["tesseract", "-", "-", "-l", chosen.tesseract, "--psm", "6"]
    answer = subprocess.run(command, input=stream.getvalue(), capture_output=True)
    if answer.returncode:
        pytest.skip(f"Tesseract's data {chosen.tesseract} are not installed")
    label, seen = " ".join(words), " ".join(answer.stdout.decode().split())
    # Measured: Persian 83 %, Hebrew 74 %, Hindi 7.2 %.
    assert 100 * Levenshtein.distance(label, seen) / len(label) > 5 * MOST_ERRORS[sample]
