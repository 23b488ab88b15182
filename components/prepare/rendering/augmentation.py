"""Makes pages look like scans: geometry first, then ink, paper, light, lens, sensor and file, as in a scanner.

A page's effects depend only on its seed. Each effect has its own random stream, so switching one on does not change
the values and patterns of the others.
"""

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from components.prepare.settings.augmentation_settings import AugmentationSettings
from components.prepare.workers.opencv_settings import make_opencv_reproducible

Gray = NDArray[np.uint8]
Field = NDArray[np.float32]

_STREAMS = ("choice", "ink_bleed", "paper_texture", "shadow", "noise_std")
_INK_MARGIN = 4
"""A pixel counts as ink if it differs from the paper by more grey levels than this."""
_INK_BORDER = 2.0
"""Pixels around the ink that must stay on the page too: pale edges of letters, and what interpolation adds."""
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)


@dataclass(frozen=True)
class Augmented:
    """A page after augmentation.

    Attributes:
        page: (H, W) grey levels; the input array itself if nothing was done.
        applied: effect -> the value used, in the unit of its setting; without the effects that did nothing.
    """

    page: Gray
    applied: dict[str, float]


def augment(page: Gray, settings: AugmentationSettings, seed: int, paper: int) -> Augmented:
    """Return ``page`` with random effects within ``settings``; the same arguments give the same bytes.

    Args:
        page: (H, W) grey levels, not changed.
        settings: the range of each effect.
        seed: the page's seed, 0 or more.
        paper: the background's grey level. It fills the corners that rotation uncovers. Everything that differs from
            it counts as ink, so a photographed page without an even background is not rotated at all.
    """
    if settings.is_off:
        return Augmented(page, {})
    make_opencv_reproducible()
    drawn = _drawn_values(settings, _random(seed, "choice"))
    if "rotation_degrees" in drawn or "skew_degrees" in drawn:
        page, used = _turned(page, drawn.pop("rotation_degrees", 0.0), drawn.pop("skew_degrees", 0.0), paper)
        drawn = {**used, **drawn}
    if amount := drawn.get("ink_bleed"):
        page = _with_ink_bleed(page, amount, paper, _random(seed, "ink_bleed"))
    if std := drawn.get("paper_texture"):
        page = _with_paper_texture(page, std, paper, _random(seed, "paper_texture"))
    if lost := drawn.get("shadow"):
        page = _with_shadow(page, lost, _random(seed, "shadow"))
    if sigma := drawn.get("blur_sigma"):
        page = _gray(cv2.GaussianBlur(page, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))
    if std := drawn.get("noise_std"):
        page = _with_noise(page, std, _random(seed, "noise_std"))
    if quality := drawn.get("jpeg_quality"):
        page = _through_jpeg(page, int(quality))
    return Augmented(page, drawn)


def _drawn_values(settings: AugmentationSettings, random: np.random.Generator) -> dict[str, float]:
    """Return the effects that do something; values are rounded as the page's metadata states them."""
    fields = list(AugmentationSettings.model_fields)
    at = dict(zip(fields, random.random(len(fields)), strict=True))
    if at["share"] >= settings.share:
        return {}
    values = {name: low + (high - low) * at[name] for name, (low, high) in settings.effect_ranges().items()}
    rounded = {name: float(round(value, 0 if name == "jpeg_quality" else 3)) for name, value in values.items()}
    return {name: value for name, value in rounded.items() if value}


def _random(seed: int, stream: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, _STREAMS.index(stream)]))


def _turned(page: Gray, rotation: float, skew: float, paper: int) -> tuple[Gray, dict[str, float]]:
    """Rotate and shear about the centre of the ink; the angles are reduced if ink would leave the page."""
    height, width = page.shape
    left, top, ink_width, ink_height = _ink_box(page, paper)
    if not ink_width:
        left, top, ink_width, ink_height = width // 2, height // 2, 1, 1
    share = _share_that_fits((ink_width, ink_height), (width, height), rotation, skew)
    # Round towards 0: the recorded angles are those that were used, and the ink still fits.
    rotation, skew = (math.trunc(1000 * share * angle) / 1000 for angle in (rotation, skew))
    used = {name: angle for name, angle in (("rotation_degrees", rotation), ("skew_degrees", skew)) if angle}
    if not used:
        return page, {}
    linear = _linear_map(rotation, skew)
    middle = np.array([left + (ink_width - 1) / 2, top + (ink_height - 1) / 2])
    half = _turned_size((ink_width, ink_height), rotation, skew) / 2
    # The ink rotates in place and is moved only if it would stick out.
    target = np.clip(middle, half - 0.5, np.array([width, height]) - half - 0.5)
    affine = np.column_stack([linear, target - linear @ middle])
    # Linear takes 1.8 ms for 1024x1024, cubic 6.4 ms. Its bytes are the same on every x86 processor with AVX2.
    turned = cv2.warpAffine(
        page, affine, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=paper
    )
    return _gray(turned), used


def _ink_box(page: Gray, paper: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of everything that is not paper; the width is 0 if all is paper."""
    ink = (page < paper - _INK_MARGIN) | (page > paper + _INK_MARGIN)
    left, top, width, height = cv2.boundingRect(ink.view(np.uint8))
    return left, top, width, height


def _linear_map(rotation: float, skew: float) -> NDArray[np.float64]:
    """Return the 2x2 matrix of a shear along the lines followed by a rotation; y points down."""
    turn, lean = math.radians(rotation), math.radians(skew)
    rotate = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return rotate @ np.array([[1.0, -math.tan(lean)], [0.0, 1.0]])


def _turned_size(box: tuple[int, int], rotation: float, skew: float) -> NDArray[np.float64]:
    """Return width and height of the upright box around a rotated box, including the border that ink needs."""
    return np.abs(_linear_map(rotation, skew)) @ np.array(box, dtype=np.float64) + 2 * _INK_BORDER


def _share_that_fits(box: tuple[int, int], page: tuple[int, int], rotation: float, skew: float) -> float:
    """Return the share of the angles, to 1 in 4096, at which the rotated box still fits the page."""
    low, high = 0.0, 1.0
    if np.all(_turned_size(box, rotation, skew) <= page):
        return 1.0
    for _ in range(12):
        middle = (low + high) / 2
        fits = np.all(_turned_size(box, middle * rotation, middle * skew) <= page)
        low, high = (middle, high) if fits else (low, middle)
    return low


def _with_ink_bleed(page: Gray, amount: float, paper: int, random: np.random.Generator) -> Gray:
    """Spread the ink unevenly by up to a pixel, as paper soaks it up."""
    darker = paper >= 128
    spread = (cv2.erode if darker else cv2.dilate)(page, _CROSS, borderType=cv2.BORDER_REPLICATE)
    coarse = amount * (1 + 0.3 * _normal((page.shape[0] // 48 + 2, page.shape[1] // 48 + 2), random))
    share = _enlarged(np.clip(coarse, 0, 1), page.shape)
    soaked = cv2.multiply(cv2.absdiff(page, spread), share, dtype=cv2.CV_8U)
    return _gray((cv2.subtract if darker else cv2.add)(page, soaked))


def _with_paper_texture(page: Gray, std: float, paper: int, random: np.random.Generator) -> Gray:
    """Multiply by grain of two sizes and by clouds: visible on bright paper, hardly on ink."""
    # A scanner shows no grain below 2 pixels; at half the size it costs a quarter of the time.
    half = (-(-page.shape[0] // 2), -(-page.shape[1] // 2))
    texture = 0.75 * _normal(half, random)
    for size, strength in ((4, 0.35), (45, 0.25)):
        texture += strength * _enlarged(_normal((half[0] // size + 2, half[1] // size + 2), random), half)
    light = _enlarged(texture, page.shape)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(light))
    relative = std / max(paper, 1)
    # White paper has no headroom: darken it until 99 % of its grain is not clipped.
    level = min(1.0, 255 / max(paper, 1) - 2.3 * relative)
    light *= np.float32(relative / max(deviation, 1e-6))
    light += np.float32(level - mean * relative / max(deviation, 1e-6))
    return _gray(cv2.multiply(page, light, dtype=cv2.CV_8U))


def _with_shadow(page: Gray, lost: float, random: np.random.Generator) -> Gray:
    """Darken the page smoothly towards one edge or corner."""
    direction, reach = random.uniform(0, 2 * math.pi), random.uniform(0.35, 1.0)
    x, y = np.meshgrid(np.linspace(-1, 1, 64, dtype=np.float32), np.linspace(-1, 1, 64, dtype=np.float32))
    along = math.cos(direction) * x + math.sin(direction) * y
    distance = np.clip((along.max() - along) / (np.ptp(along) * reach), 0, 1)
    dark = 1 - distance * distance * (3 - 2 * distance)
    return _gray(cv2.multiply(page, _enlarged(1 - np.float32(lost) * dark, page.shape), dtype=cv2.CV_8U))


def _with_noise(page: Gray, std: float, random: np.random.Generator) -> Gray:
    """Add Gaussian noise, clip to 0..255 and round."""
    return _gray(cv2.add(page, _normal(page.shape, random) * np.float32(std), dtype=cv2.CV_8U))


def _through_jpeg(page: Gray, quality: int) -> Gray:
    _, encoded = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _gray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


def _normal(shape: tuple[int, ...], random: np.random.Generator) -> Field:
    """Return normally distributed numbers with mean 0 and standard deviation 1."""
    # Look up quantiles by 16 random bits: 1.3 ms for 1024x1024, Generator.normal takes 11.2 ms.
    ranks = random.integers(0, 1 << 16, shape, dtype=np.uint16)
    return np.asarray(cv2.LUT(ranks, _normal_quantiles()), dtype=np.float32)


@cache
def _normal_quantiles() -> Field:
    """Return the normal distribution's quantiles at the midpoints of 65,536 equal shares, -4.3 to 4.3."""
    upper = [NormalDist().inv_cdf((rank + 0.5) / (1 << 16)) for rank in range(1 << 15, 1 << 16)]
    return np.array([-value for value in reversed(upper)] + upper, dtype=np.float32)


def _enlarged(field: Field, shape: tuple[int, ...]) -> Field:
    """Return a coarse field scaled to the size of a page."""
    return np.asarray(cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _gray(picture: MatLike | None) -> Gray:
    """Return OpenCV's result as uint8; it is 8-bit grey, although OpenCV's signatures do not say so."""
    if picture is None:
        raise RuntimeError("OpenCV could not decode the JPEG that it made")
    return picture.astype(np.uint8, copy=False)
