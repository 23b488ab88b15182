"""Draws fixed pages and prints a sha256 per page and stage, so that processes and processors can be compared.

    python -m tests.unit.prepare.drawn_bytes PAGES

Stages: the coverage of each text engine, each augmentation effect, and each file format.
"""

import hashlib
import json
import sys
from typing import Any

import numpy as np

from components.prepare.output.png import encode_image
from components.prepare.rendering.augmentation import augment
from components.prepare.settings.augmentation_settings import AugmentationSettings
from components.prepare.typesetting.engine_choice import choose_engine
from components.prepare.typesetting.fonts import find_fonts
from components.prepare.typesetting.text_engine import PlacedLine, TextStyle

WORDS = [
    *("The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "while", "fifty"),
    *("ravens", "watch", "ffi", "fl", "Ångström", "déjà", "vu", "0123456789"),
]
EFFECTS: dict[str, dict[str, Any]] = {
    "rotation": {"rotation_degrees": (-3, 3)},
    "skew": {"skew_degrees": (-2, 2)},
    "ink_bleed": {"ink_bleed": (0.3, 0.9)},
    "paper_texture": {"paper_texture": (2, 8)},
    "shadow": {"shadow": (0.1, 0.5)},
    "blur": {"blur_sigma": (0.4, 1.8)},
    "noise": {"noise_std": (2, 9)},
    "jpeg": {"jpeg_quality": (40, 90)},
}
ALL_EFFECTS = AugmentationSettings(**{name: span for effect in EFFECTS.values() for name, span in effect.items()})
SHAPES = ((420, 112), (640, 640), (257, 331))


def page_digests(pages: int) -> dict[str, str]:
    """Return the digests of ``page_digest`` for the pages from 0 to ``pages`` - 1."""
    return {name: digest for number in range(pages) for name, digest in page_digest(number).items()}


def page_digest(number: int) -> dict[str, str]:
    """Return "NUMBER STAGE" -> sha256 of that stage of page ``number``."""
    digests: dict[str, str] = {}

    def add(stage: str, content: bytes) -> None:
        digests[f"{number} {stage}"] = hashlib.sha256(content).hexdigest()

    faces = find_fonts(["DejaVuSans.ttf", "DejaVuSerif.ttf"])
    width, height = SHAPES[number % len(SHAPES)]
    text = " ".join(WORDS[(7 * number + 5 * place) % len(WORDS)] for place in range(60))
    style = TextStyle((number % 2, 1 - number % 2), 14 + number % 9, "en")
    for name in ("pango", "pillow"):
        engine = choose_engine(name, faces).engine  # type: ignore[arg-type]
        lines = engine.lay_out(text, style, width - 20, False)
        placed = [PlacedLine(line, 10.0, 24.0 * place) for place, line in enumerate(lines, start=1)]
        coverage = np.ascontiguousarray(engine.draw(placed, style, width, height))
        add(name, coverage.tobytes())
    page = 255 - coverage
    for effect, setting in EFFECTS.items():
        add(effect, augment(page, AugmentationSettings(**setting), number, 255).page.tobytes())
    scan = augment(page, ALL_EFFECTS, number, 255)
    for image_format in ("png", "webp", "jpg"):
        add(image_format, encode_image(page, image_format))
        add(f"scan as {image_format}", encode_image(scan.page, image_format))
    return digests


if __name__ == "__main__":
    print(json.dumps(page_digests(int(sys.argv[1])), indent=1))
