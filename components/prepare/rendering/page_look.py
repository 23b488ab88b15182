"""The look of one page: its seed picks values from the configured ranges."""

import random
from dataclasses import dataclass

from components.prepare.config import PrepareConfig


@dataclass(frozen=True)
class PageLook:
    """The look of one page.

    Attributes:
        faces: indices of the configured fonts, the preferred font first.
        font_size: pixels per em.
        mode: the configured resolution, e.g. ``"base"`` or ``"1024x1024"``; None for page_width x page_height.
        width: pixels.
        height: pixels; None if it depends on the lines.
        columns: number of text columns.
        margin: pixels.
        line_spacing: distance between two baselines, as a multiple of the font size.
        max_lines: the most lines on the page; None for no limit.
        ink, paper: grey levels, 0 black to 255 white.
        augmentation_seed: the seed of the page's augmentation.
    """

    faces: tuple[int, ...]
    font_size: int
    mode: str | None
    width: int
    height: int | None
    columns: int
    margin: int
    line_spacing: float
    max_lines: int | None
    ink: int
    paper: int
    augmentation_seed: int


def page_look(config: PrepareConfig, face_count: int, seed: bytes) -> PageLook:
    """Return the look that ``seed`` chooses; the same arguments give the same look."""
    choice = random.Random(seed)
    order = list(range(face_count))
    first = order.pop(choice.randrange(face_count))
    size = choice.randrange(len(config.page_sizes()))
    width, height = config.page_sizes()[size]
    limits = config.line_limits()
    return PageLook(
        faces=(first, *order),
        font_size=choice.choice(config.font_sizes),
        mode=config.resolutions[size] if config.resolutions else None,
        width=width,
        height=height,
        columns=choice.choice(config.columns),
        margin=choice.randint(*config.margin),
        line_spacing=choice.uniform(*config.line_spacing),
        max_lines=choice.randint(*limits) if limits else None,
        ink=choice.randint(*config.ink),
        paper=choice.randint(*config.paper),
        augmentation_seed=choice.getrandbits(63),
    )
