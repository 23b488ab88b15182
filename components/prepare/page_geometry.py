"""Where on the page each line is drawn, and how high the page is; in pixels."""

from PIL import ImageFont

from components.prepare.config import PrepareConfig


def line_height(config: PrepareConfig, font_size: int) -> int:
    """Return the distance of two baselines."""
    return round(font_size * config.line_spacing)


def line_tops(lines: int, font: ImageFont.FreeTypeFont, config: PrepareConfig) -> list[int]:
    """Return the ordinate at which each line's ascender begins; the abscissa is the margin."""
    spacing = line_height(config, round(font.size))
    ascent, descent = font.getmetrics()
    above = max(0, spacing - ascent - descent) // 2
    return [config.margin + number * spacing + above for number in range(lines)]


def page_height(lines: int, font: ImageFont.FreeTypeFont, config: PrepareConfig) -> int:
    """Return the configured height, or the one that the lines need."""
    if config.page_height is not None:
        return config.page_height
    spacing = line_height(config, round(font.size))
    # Half a line below the last one, and never less than the font's own height: no descender is clipped.
    text = max(lines * spacing + spacing // 2, (lines - 1) * spacing + sum(font.getmetrics()))
    return -(-(2 * config.margin + text) // config.page_size_multiple) * config.page_size_multiple


def is_clipped(lines: list[str], font: ImageFont.FreeTypeFont, config: PrepareConfig) -> bool:
    """Return whether a part of a letter would lie in the margin on the right, or outside of the picture."""
    right_edge, bottom_edge = config.page_width - config.margin, page_height(len(lines), font, config)
    for line, top in zip(lines, line_tops(len(lines), font, config), strict=True):
        left, above, right, below = font.getbbox(line, anchor="la")
        if config.margin + max(right, font.getlength(line)) > right_edge or config.margin + left < 0:
            return True
        if top + above < 0 or top + below > bottom_edge:
            return True
    return False
