"""How one page looks: drawn from the configured ranges by a seed of its own."""

import hashlib
import random
from dataclasses import dataclass

from components.prepare.config import PrepareConfig
from components.prepare.page_geometry import line_height


@dataclass(frozen=True)
class PageLook:
    """The choices made for one page.

    Attributes:
        font_order: indices of the configured faces, the preferred one first.
        font_size: pixels.
        max_lines: the page is full after that many lines.
        ink, paper: gray levels, 0 black to 255 white.
        noise_seed: of the pixel noise.
    """

    font_order: tuple[int, ...]
    font_size: int
    max_lines: int
    ink: int
    paper: int
    noise_seed: int


def page_look(config: PrepareConfig, face_count: int, document_digest: str, page: int) -> PageLook:
    """Return the look of page number ``page`` of a document; the same arguments give the same look."""
    seed = hashlib.sha256(f"{config.seed}:{document_digest}:{page}".encode()).digest()
    choice = random.Random(seed)
    order = list(range(face_count))
    first = order.pop(choice.randrange(face_count))
    size = choice.choice(config.font_sizes)
    return PageLook(
        font_order=(first, *order),
        font_size=size,
        max_lines=_line_limit(config, size, choice),
        ink=choice.randint(*config.ink),
        paper=choice.randint(*config.paper),
        noise_seed=choice.getrandbits(63),
    )


def _line_limit(config: PrepareConfig, font_size: int, choice: random.Random) -> int:
    limit = choice.randint(*config.lines_per_page)
    if config.page_height is None:
        return limit
    spacing = line_height(config, font_size)
    # The last line is as high as its letters, which in most fonts is up to 1.25 of the font size.
    above_last = config.page_height - 2 * config.margin - max(spacing, round(1.25 * font_size))
    return max(1, min(limit, 1 + above_last // spacing))
