"""Augmentation through ``augment``: each effect's measurable property, what it must never do, and its determinism."""

import math
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist
from typing import Any

import cv2
import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from components.prepare.rendering.augmentation import Augmented, augment
from components.prepare.settings.augmentation_settings import AugmentationSettings

Gray = NDArray[np.uint8]
PAPER = 240
MILD: dict[str, Any] = {
    "rotation_degrees": (-1, 1),
    "skew_degrees": (-0.5, 0.5),
    "blur_sigma": (0.2, 0.7),
    "noise_std": (1, 4),
    "jpeg_quality": (55, 90),
    "ink_bleed": (0, 0.5),
    "shadow": (0, 0.35),
    "paper_texture": (1, 4),
}
SENTENCES = [
    "The quay was empty when the first boats came in before dawn.",
    "A lamp burned in the harbour office, and somebody had left",
    "the ledger open at the page of the previous winter.",
    "Nobody could say afterwards who had written the last entry,",
    "or why the ink was still wet when the clerk returned.",
]


def augmented(page: Gray, seed: int = 1, paper: int = PAPER, **effects: Any) -> Augmented:
    return augment(page, AugmentationSettings(**effects), seed, paper)


def blank(height: int = 512, width: int = 512, paper: int = PAPER) -> Gray:
    return np.full((height, width), paper, np.uint8)


def ruled_page(spacing: int = 40) -> Gray:
    """Rules of 2 pixels, across and down, far from the border."""
    page = blank(800, 800)
    for place in range(200, 601, spacing):
        cv2.line(page, (200, place), (600, place), 20, 2)
        cv2.line(page, (place, 200), (place, 600), 20, 2)
    return page


def text_page() -> Gray:
    from matplotlib import get_data_path

    font = ImageFont.truetype(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 24)
    image = Image.new("L", (1024, 700), PAPER)
    for row, line in enumerate(SENTENCES * 3):
        ImageDraw.Draw(image).text((60, 40 + 40 * row), line, fill=25, font=font)
    return np.array(image)


def corners(page: Gray) -> NDArray[np.float64]:
    """Return the grid's upper left, upper right and lower left corner as (x, y): the inkiest extremes."""
    y, x = np.nonzero(page < 140)
    points = np.column_stack([x, y]).astype(float)
    return np.array([points[np.argmin(points @ way)] for way in ([1, 1], [-1, 1], [1, -1])])


def ink_box(page: Gray, margin: int = 4) -> tuple[int, int, int, int]:
    return tuple(cv2.boundingRect((page < PAPER - margin).astype(np.uint8)))  # type: ignore[return-value]


# ---- off


def test_without_effects_the_very_same_array_comes_back() -> None:
    page = text_page()
    settings_off = AugmentationSettings()
    assert settings_off.is_off
    assert augment(page, settings_off, 1, PAPER).page is page
    assert augmented(page, share=0.0, noise_std=(5, 5)).page is page
    assert AugmentationSettings(share=0.0, noise_std=(5, 5)).is_off
    assert not AugmentationSettings(jpeg_quality=(90, 90)).is_off


def test_the_page_that_is_given_is_not_changed() -> None:
    page = text_page()
    before = page.copy()
    augmented(page, **MILD)
    assert np.array_equal(page, before)


def test_share_is_the_share_of_pages_that_change() -> None:
    page = blank(32, 32)
    changed = [bool(augmented(page, seed, share=0.3, noise_std=(4, 4)).applied) for seed in range(1000)]
    assert 0.25 < np.mean(changed) < 0.35  # 0.3, within 3.4 standard deviations


# ---- what each effect does


@pytest.mark.parametrize("angle", [-7.0, -0.8, 2.5, 9.0])
def test_rotation_turns_by_its_angle_anticlockwise(angle: float) -> None:
    result = augmented(ruled_page(), rotation_degrees=(angle, angle))
    left, right, _ = corners(result.page)
    measured = math.degrees(math.atan2(left[1] - right[1], right[0] - left[0]))
    assert result.applied == {"rotation_degrees": angle}
    assert measured == pytest.approx(angle, abs=0.2)  # one pixel in 400 is 0.14 degrees


@pytest.mark.parametrize("angle", [-8.0, 4.0])
def test_skew_leans_the_verticals_and_leaves_the_horizontals(angle: float) -> None:
    result = augmented(ruled_page(), skew_degrees=(angle, angle))
    points = np.argwhere(result.page < 140)[:, ::-1]
    top, bottom = points[points[:, 1] == points[:, 1].min()], points[points[:, 1] == points[:, 1].max()]
    lean = math.degrees(math.atan2(top[:, 0].mean() - bottom[:, 0].mean(), bottom[0, 1] - top[0, 1]))
    assert lean == pytest.approx(angle, abs=0.2)
    assert len(top) > 380, "the uppermost rule still lies in one row of pixels"


def test_turning_fills_what_it_uncovers_with_paper() -> None:
    page = augmented(ruled_page(), rotation_degrees=(9, 9), skew_degrees=(5, 5)).page
    border = np.concatenate([page[0], page[-1], page[:, 0], page[:, -1]])
    assert np.all(border == PAPER)


def test_blur_lowers_the_gradients_and_keeps_the_mean() -> None:
    page = text_page()

    def energy(picture: Gray) -> float:
        return float(np.square(np.diff(picture.astype(float), axis=1)).mean())

    energies = [energy(augmented(page, blur_sigma=(sigma, sigma)).page) for sigma in (0.5, 1.0, 2.0)]
    assert energy(page) > 1.2 * energies[0] > 1.2 * 1.2 * energies[1] > 1.2**3 * energies[2]
    assert augmented(page, blur_sigma=(2, 2)).page.mean() == pytest.approx(page.mean(), abs=0.3)


@pytest.mark.parametrize("std", [2.0, 9.0, 25.0])
def test_noise_has_its_standard_deviation_and_is_white_and_normal(std: float) -> None:
    noise = augmented(blank(paper=128), paper=128, noise_std=(std, std)).page.astype(float) - 128
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(math.sqrt(std**2 + 1 / 12), rel=0.02)  # 1/12: the variance of rounding
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.01
    # Rounded noise exceeds 2 standard deviations if the noise exceeds the next half above them; of 262,144 pixels.
    tail = 2 * (1 - NormalDist().cdf((math.floor(2 * std) + 0.5) / std))
    assert np.mean(np.abs(noise) > 2 * std) == pytest.approx(tail, rel=0.05)


def test_noise_is_clipped_and_does_not_wrap() -> None:
    page = augmented(blank(paper=250), paper=250, noise_std=(6, 6)).page
    assert page.max() == 255 and page.min() > 200


def test_jpeg_is_what_a_decoder_makes_of_a_file_of_that_quality() -> None:
    page = text_page()
    _, encoded = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, 35])
    result = augmented(page, jpeg_quality=(35, 35))
    assert np.array_equal(result.page, cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))
    assert result.applied == {"jpeg_quality": 35.0}


def test_ink_bleed_thickens_strokes_by_no_more_than_a_pixel() -> None:
    page = text_page()
    means = [augmented(page, ink_bleed=(amount, amount)).page.mean() for amount in (0.2, 0.5, 1.0)]
    assert page.mean() > means[0] > means[1] > means[2]
    bled = augmented(page, ink_bleed=(1, 1)).page
    assert np.all(bled <= page), "nothing gets paler"
    assert np.all(bled >= cv2.erode(page, np.ones((3, 3), np.uint8))), "nothing gets darker than what is next to it"


def test_ink_bleed_spreads_pale_ink_on_dark_paper_too() -> None:
    page = np.where(text_page() < 200, 230, 20).astype(np.uint8)
    bled = augmented(page, paper=20, ink_bleed=(1, 1)).page
    assert np.all(bled >= page) and bled.mean() > page.mean() + 1


@pytest.mark.parametrize("seed", range(6))
def test_shadow_takes_its_share_of_the_light_monotonically_towards_one_edge(seed: int) -> None:
    page = augmented(blank(400, 600), seed, shadow=(0.5, 0.5)).page.astype(int)
    assert page.max() == PAPER, "the far side is not darkened"
    assert page.min() == pytest.approx(PAPER / 2, abs=2)
    edges = np.concatenate([page[0], page[-1], page[:, 0], page[:, -1]])
    assert page.min() == edges.min()
    for steps in (np.diff(page, axis=0), np.diff(page, axis=1)):
        assert np.abs(steps).max() <= 3, "smooth"
    for steps in (np.diff(page[::20], axis=0), np.diff(page[:, ::20], axis=1)):
        assert np.all(steps >= -1) or np.all(steps <= 1), "one way, but for the rounding of a level that hardly changes"


def test_shadows_come_from_every_side() -> None:
    means = [augmented(blank(64, 64), seed, shadow=(0.5, 0.5)).page.astype(float) for seed in range(60)]
    darker = [(page[:32].mean() < page[32:].mean(), page[:, :32].mean() < page[:, 32:].mean()) for page in means]
    assert len(set(darker)) == 4


@pytest.mark.parametrize("paper", [200, 240, 255])
def test_paper_texture_has_its_standard_deviation_also_on_white_paper(paper: int) -> None:
    page = augmented(blank(paper=paper), paper=paper, paper_texture=(5, 5)).page
    assert page.std() == pytest.approx(5, rel=0.06)
    assert np.mean(page == 255) < 0.03, "nearly nothing is cut off at white"
    correlation = np.corrcoef(page[:, 1:].ravel(), page[:, :-1].ravel())[0, 1]
    assert correlation > 0.3, "grain, not the white noise of a sensor"


def test_paper_texture_shows_on_paper_more_than_on_ink() -> None:
    page = blank()
    page[:, 256:] = 20
    textured = augmented(page, paper_texture=(6, 6)).page
    assert textured[:, 256:].std() < 1 < 5 < textured[:, :256].std()


# ---- what must never happen


@settings(max_examples=60)
@given(
    height=st.integers(64, 400),
    width=st.integers(64, 400),
    insets=st.tuples(*[st.integers(0, 30)] * 4),
    rotation=st.floats(-20, 20),
    skew=st.floats(-20, 20),
    seed=st.integers(0, 2**63 - 1),
)
def test_turning_never_takes_ink_off_the_page(
    height: int, width: int, insets: tuple[int, int, int, int], rotation: float, skew: float, seed: int
) -> None:
    left, top, right, bottom = insets
    page = blank(height, width)
    dots = np.random.default_rng(seed)
    # Dots of 3 pixels, also in the corners of the ink's bounding box; the count shows whether one is lost.
    places = {(left + 1, top + 1), (width - right - 2, top + 1), (left + 1, height - bottom - 2)}
    places |= {(width - right - 2, height - bottom - 2)}
    places |= {
        (int(dots.integers(left + 1, width - right - 1)), int(dots.integers(top + 1, height - bottom - 1)))
        for _ in range(20)
    }
    for x, y in places:
        page[y - 1 : y + 2, x - 1 : x + 2] = 0
    result = augmented(page, rotation_degrees=(rotation, rotation), skew_degrees=(skew, skew))
    lost, had = (float((PAPER - picture.astype(float)).sum()) for picture in (result.page, page))
    assert lost == pytest.approx(had, rel=0.02), "interpolation moves ink about, none of it is gone"
    for name, asked in (("rotation_degrees", rotation), ("skew_degrees", skew)):
        used = result.applied.get(name, 0.0)
        assert abs(used) <= abs(asked) + 5e-4 and used * asked >= 0


def test_room_at_the_border_is_used_and_angles_shrink_only_where_it_ends() -> None:
    roomy = ruled_page()
    assert augmented(roomy, rotation_degrees=(10, 10)).applied == {"rotation_degrees": 10.0}
    full = blank(400, 400)
    full[8:392, 8:392] = 30
    used = augmented(full, rotation_degrees=(10, 10)).applied["rotation_degrees"]
    assert 1.0 < used < 2.5
    to_the_edge = np.full((100, 100), 30, np.uint8)
    assert augmented(to_the_edge, rotation_degrees=(10, 10)).applied == {}


def test_ink_beside_the_border_is_moved_in_to_keep_its_angle() -> None:
    page = blank(500, 500)
    cv2.line(page, (3, 3), (260, 3), 0, 1)
    result = augmented(page, rotation_degrees=(15, 15))
    assert result.applied == {"rotation_degrees": 15.0}
    assert ink_box(result.page)[3] == pytest.approx(257 * math.sin(math.radians(15)), abs=4)


@pytest.mark.skipif(not shutil.which("tesseract"), reason="tesseract is not installed")
def test_a_mildly_augmented_page_is_as_readable_as_a_clean_one(tmp_path: Path) -> None:
    label = " ".join(SENTENCES * 3)
    for seed in (0, 1):
        path = tmp_path / "page.png"
        cv2.imwrite(str(path), augmented(text_page(), seed, **MILD).page)
        read = subprocess.run(["tesseract", path, "-", "--psm", "6"], capture_output=True, text=True, check=True)
        assert jiwer.cer(label, " ".join(read.stdout.split())) < 0.05


# ---- determinism


def test_a_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    page = text_page()
    first, again, other = (augmented(page, seed, **MILD) for seed in (5, 5, 6))
    assert np.array_equal(first.page, again.page) and first.applied == again.applied
    assert not np.array_equal(first.page, other.page) and first.applied != other.applied
    assert set(first.applied) == set(MILD)


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    page = text_page()
    np.save(tmp_path / "page.npy", page)
    program = (
        "import sys, numpy as np\n"
        "from components.prepare.rendering.augmentation import augment\n"
        "from components.prepare.settings.augmentation_settings import AugmentationSettings\n"
        "settings = AugmentationSettings.model_validate_json(sys.argv[2])\n"
        "sys.stdout.buffer.write(augment(np.load(sys.argv[1]), settings, 5, 240).page.tobytes())\n"
    )
    argument = AugmentationSettings(**MILD).model_dump_json()
    output = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "page.npy", argument], capture_output=True, check=True
    ).stdout
    assert output == augmented(page, 5, **MILD).page.tobytes()


def test_an_effect_s_values_and_pattern_do_not_depend_on_the_others() -> None:
    page = blank(64, 64)
    noise_alone = augmented(page, noise_std=(3, 9))
    noise_and_nothing_visible = augmented(page, noise_std=(3, 9), ink_bleed=(1, 1))
    assert np.array_equal(noise_alone.page, noise_and_nothing_visible.page)
    everything = augmented(page, **{**MILD, "noise_std": (3, 9)})
    assert everything.applied["noise_std"] == noise_alone.applied["noise_std"]


def test_values_are_spread_over_their_range() -> None:
    page = blank(32, 32)
    drawn = [augmented(page, seed, noise_std=(2, 6)).applied["noise_std"] for seed in range(300)]
    assert min(drawn) >= 2 and max(drawn) <= 6
    assert np.std(drawn) == pytest.approx(4 / math.sqrt(12), rel=0.1), "that of a uniform distribution"
