"""Font files made for a test."""

from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen


def built_font(path: Path, letters: str = "", outlines: bool = True, family: str = "Made Here") -> Path:
    """Write a font whose letters are rectangles of different widths, or empty, and return ``path``."""
    pens = {}
    for number, name in enumerate([".notdef", *(f"letter{ord(letter)}" for letter in letters)]):
        pens[name] = TTGlyphPen(None)
        if outlines and name != f"letter{ord(' ')}":
            for place, (x, y) in enumerate([(0, 0), (0, 500), (400 + number, 500), (400 + number, 0)]):
                pens[name].lineTo((x, y)) if place else pens[name].moveTo((x, y))
            pens[name].closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(list(pens))
    builder.setupCharacterMap({ord(letter): f"letter{ord(letter)}" for letter in letters})
    builder.setupGlyf({name: pen.glyph() for name, pen in pens.items()})
    builder.setupHorizontalMetrics(dict.fromkeys(pens, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path
