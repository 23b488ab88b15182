"""The estimated letter height follows the size that a page's text was set in, whatever else is on the page."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from components.shared.datasets.letter_height import letter_height

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
TEXT = "All human beings are born free and equal in dignity and rights They are endowed with reason"
WORDS = TEXT.split()


def page(size: int, width: int = 640, height: int = 480, columns: int = 1, spacing: float = 1.3) -> Image.Image:
    """Return a page filled with text of ``size`` pixels per em."""
    image = Image.new("L", (width, height), 245)
    drawing, font = ImageDraw.Draw(image), ImageFont.truetype(FONT, size)
    column = width // columns
    for left in range(0, columns * column, column):
        for number, top in enumerate(range(10, height - 2 * size, round(spacing * size))):
            line = " ".join(WORDS[number % 7 :] + WORDS)
            while font.getlength(line) > column - 20:
                line = line[:-1]
            drawing.text((left + 10, top), line, fill=20, font=font)
    return image


def relative(image: Image.Image, size: float) -> float:
    found = letter_height(image)
    assert found is not None
    return found / size


@pytest.mark.parametrize("size", [8, 10, 14, 20, 32, 60])
@pytest.mark.parametrize("columns", [1, 2])
def test_letters_are_about_three_quarters_of_their_font_size(size: int, columns: int) -> None:
    assert 0.5 <= relative(page(size, 90 * 12, 800, columns), size) <= 1.05


@pytest.mark.parametrize("factor", [0.25, 0.4, 2.0, 8.0])
def test_a_page_scaled_has_letters_scaled(factor: float) -> None:
    whole = page(36, 1000, 900)
    scaled = whole.resize((round(1000 * factor), round(900 * factor)), Image.Resampling.LANCZOS)
    assert letter_height(scaled) == pytest.approx(factor * relative(whole, 1), rel=0.2)


def test_what_else_is_on_a_page_changes_little() -> None:
    clean = page(20, 800, 700)
    expected = letter_height(clean)
    assert expected is not None
    levels = np.asarray(clean).astype(np.float64)
    noisy = levels + np.random.default_rng(1).normal(0, 6, levels.shape)
    shadow = levels * np.linspace(1, 0.5, levels.shape[1])
    framed = clean.copy()
    drawing = ImageDraw.Draw(framed)
    drawing.rectangle((2, 2, 797, 697), outline=0, width=3)
    drawing.rectangle((500, 400, 760, 660), fill=90)
    for top in range(60, 700, 80):
        drawing.line((10, top, 790, top), fill=0, width=2)
    changed = {
        "light on dark": 255 - levels,
        "noise": noisy.clip(0, 255),
        "shadow": shadow,
        "frame, rules and a picture": np.asarray(framed),
        "turned": np.asarray(clean.rotate(2, fillcolor=245)),
    }
    found = {name: letter_height(picture.astype(np.uint8)) for name, picture in changed.items()}
    assert found == {name: pytest.approx(expected, rel=0.3) for name in changed}


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("L", (600, 400), 255),
        Image.new("L", (600, 400), 0),
        Image.new("L", (3, 2), 255),
        Image.new("1", (1, 900), 1),
        Image.new("RGB", (900, 1), "white"),
    ],
)
def test_a_page_without_text_has_no_letter_height(picture: Image.Image) -> None:
    assert letter_height(picture) is None


def test_colours_and_arrays_are_measured_like_grey_pictures() -> None:
    gray = page(16)
    assert letter_height(gray) == letter_height(np.asarray(gray)) == letter_height(gray.convert("RGB"))
