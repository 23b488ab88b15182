"""Says of each character in a PDF's text layer whether the page shows it."""

import math
from collections.abc import Sequence
from ctypes import addressof, c_double
from typing import Any, Literal

import cv2
import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium
from numpy.typing import NDArray

from components.prepare.sources.pages.pdf_drawing import Object, PageDrawing, without
from components.prepare.sources.pages.pixel_boxes import integral, most_of_channels, sums_in, whole_boxes

Shown = Literal["shown", "hidden", "unknown"]

_LEAST_POINTS = 2.0
"""The height below which letters cannot be read; the smallest print in use has 4 points."""
_LEAST_CONTRAST = 16
"""Gray levels of 255 that ink changes; a letter of light gray (#EEEEEE) on white changes 17."""
_INVISIBLE_MODES = (pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP)
_SCALE, _LONGEST_SIDE = 2.0, 2000
"""Pixels a point of the first look, and the most pixels of a side."""
_CLOSER, _LARGEST_LOOK = 2.0, 4_000_000
"""How much closer the second look is, and its most pixels."""
_MOST_LOOKS = 16
"""Of more text objects, those that lie apart share a look; what lies above that many others counts as hidden."""
_NARROW = 5
"""Pixels of a side that is not divided into quarters: a stem, a dot."""
_OVERLAP = 0.3
"""Share of a character's box that another text object has to cover for a look at each of the two alone."""
_LEAST_SHARE = 0.5
_LEAST_BOX = 0.05  # points; PDFium gives characters without an outline a box without height or width


class PageInk:
    """What the page draws, compared with where the text layer has its characters.

    The page is drawn twice, with and without its text objects. A character is shown if the two differ near all four
    sides of its box. Where they do not, or where text objects lie above each other, a second look is closer and at
    what the character draws alone: at half of that ink, the page must differ from the page without texts because of
    this character. So neither a line through white letters nor a letter above others is taken for their ink.

    Attributes:
        boxes: (characters, 4) left, top, right, bottom in pixels of the first look.
    """

    def __init__(self, page: pypdfium2.PdfPage, textpage: pypdfium2.PdfTextPage) -> None:
        self._textpage = textpage
        self._count = textpage.count_chars()
        self._drawing = PageDrawing(page, _SCALE, _LONGEST_SIDE)
        self._size = self._drawing.size
        self._objects, self._object_of = self._text_objects()
        points = self._boxes_in_points()
        sides = np.abs(points[:, :2] - points[:, 2:])
        self._boxless = (sides < _LEAST_BOX).any(axis=1)
        self.boxes = self._drawing.in_pixels(points)
        self._pixels = self._drawing.gray() if self._objects and self._drawing.drawable else None

    def on_page(self) -> NDArray[np.bool_]:
        """Return per character whether the middle of its box is on the page."""
        middles = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        return np.asarray(((middles >= 0) & (middles <= self._size)).all(axis=1))

    def shown(self, wanted: NDArray[np.bool_], keep_invisible: bool) -> list[Shown]:
        """Return per character whether the page shows it; of those without a box that is unknown.

        Args:
            wanted: the characters that are asked for; the others are unknown.
            keep_invisible: characters in an invisible mode are shown where there is any ink in their box.
        """
        visible, large = self._styles()
        known = wanted & ~self._boxless & (self._object_of >= 0)
        if self._pixels is None:
            found = visible | keep_invisible
        else:
            found = self._drawn(known & visible & large)
            if keep_invisible and not visible.all():
                under = [not visible[number] and self._has_contrast(number) for number in range(self._count)]
                found |= np.array(under, bool) & known
        found &= large
        names: tuple[Shown, Shown] = ("hidden", "shown")
        hidden_mode = wanted & ~(visible | keep_invisible)  # without a box, too
        return [
            names[bool(found[number])] if known[number] or hidden_mode[number] else "unknown"
            for number in range(self._count)
        ]

    def _drawn(self, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        assert self._pixels is not None
        with without(self._drawing.texts):  # also those that repeat another one, which the text layer leaves out
            textless = self._drawing.gray()
        found = asked & self._near_all_sides(cv2.absdiff(self._pixels, textless) >= _LEAST_CONTRAST)
        doubtful = asked & (~found | self._overlapping(asked))
        found &= ~doubtful
        for layer in self._layers(doubtful):
            members = doubtful & np.isin(self._object_of, layer)
            found[members] = self._closer(layer, members)
        return found

    def _near_all_sides(self, differs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return per character whether pixels differ in the outer quarters of its box on all sides.

        Across a side of few pixels, it is enough that they differ anywhere.
        """
        total = integral(differs)
        left, top, right, bottom = self.boxes.T
        # PDFium puts glyphs on whole pixels, so ink may be one beyond its box.
        across, down = (np.where(side < _NARROW, side + 1, side / 4) for side in (right - left, bottom - top))
        quarters = (
            (left - 1, top, left + across, bottom),
            (right - across, top, right + 1, bottom),
            (left, top - 1, right, top + down),
            (left, bottom - down, right, bottom + 1),
        )
        return np.logical_and.reduce([sums_in(total, np.stack(quarter, axis=1)) > 0 for quarter in quarters])

    def _overlapping(self, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the characters of text objects of which one lies on one of another text object, or below one."""
        numbers, boxes, owners = np.flatnonzero(asked), self.boxes[asked], self._object_of[asked]
        # Most pages have none: look for boxes, without their edges, that share a point of the page with another.
        columns, rows = self._size[0] // 2 + 1, self._size[1] // 2 + 1
        edges = (boxes[:, 2:] - boxes[:, :2]) / 6
        inner = np.concatenate([boxes[:, :2] + edges, boxes[:, 2:] - edges], axis=1) / 2
        layers = np.zeros((rows + 1, columns + 1), np.float32)
        left, top, right, bottom = whole_boxes(inner, (columns, rows)).T
        for y, x, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
            np.add.at(layers, (y, x), sign)
        covers = cv2.integral(layers)[1:-1, 1:-1].astype(np.float32)
        found = np.zeros(self._count, bool)
        for place in np.flatnonzero(sums_in(integral(covers), inner) > (right - left) * (bottom - top)):
            box = boxes[place]
            common = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
            shared = np.where((common > 0).all(axis=1), common.prod(axis=1), 0)
            above = (owners != owners[place]) & (shared > _OVERLAP * (box[2:] - box[:2]).prod())
            found[numbers[above]] = True
            found[numbers[place]] |= above.any()
        return asked & np.isin(self._object_of, np.unique(self._object_of[found]))

    def _layers(self, doubtful: NDArray[np.bool_]) -> list[list[int]]:
        """Return the text objects of these characters in at most ``_MOST_LOOKS`` groups whose characters are apart."""
        numbers = np.unique(self._object_of[doubtful]).tolist()
        if len(numbers) <= _MOST_LOOKS:
            return [[number] for number in numbers]
        layers: list[list[int]] = []
        taken = np.zeros((_MOST_LOOKS, len(numbers), 4))
        for number in numbers:
            boxes = self.boxes[doubtful & (self._object_of == number)]
            low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
            for place, members in enumerate(layers):
                others = taken[place, : len(members)]
                if ((low >= others[:, 2:]) | (high <= others[:, :2])).any(axis=1).all():
                    break
            else:
                place, members = len(layers), []
                if place == _MOST_LOOKS:
                    continue
                layers.append(members)
            taken[place, len(members)] = *low, *high
            members.append(number)
        return layers

    def _closer(self, layer: Sequence[int], members: NDArray[np.bool_]) -> list[bool]:
        """Return of each of ``members``, which belong to the text objects in ``layer``, whether its ink is visible."""
        boxes, size = self.boxes[members], np.array(self._size)
        start = np.clip(np.floor(boxes[:, :2].min(axis=0)) - 1, 0, size)
        end = np.clip(np.ceil(boxes[:, 2:].max(axis=0)) + 1, 0, size)
        if (end <= start).any():
            return [False] * len(boxes)
        scale = min(_CLOSER, math.sqrt(_LARGEST_LOOK / float((end - start).prod())))
        objects = [self._objects[number] for number in layer]
        view = self._drawing.view(start, end, scale)
        page = view(255)
        with without(objects):
            change = cv2.absdiff(page, view(255))
        with without(self._drawing.texts):
            background = view(255)
        chosen = {addressof(one.contents) for one in objects}
        with without([leaf for leaf in self._drawing.objects if addressof(leaf.contents) not in chosen]):
            alone = view(0)
            alpha = 255 - cv2.subtract(view(255), alone)
        expected = cv2.add(alone, _share(background, 255 - alpha))
        on_top = most_of_channels(cv2.absdiff(page, expected)) <= _LEAST_CONTRAST
        ink = most_of_channels(alpha)  # 255 where the text alone is opaque
        least = _share(ink, _LEAST_CONTRAST - 2)
        differs = most_of_channels(cv2.absdiff(page, background)) >= least
        visible = np.where(differs & (on_top | (most_of_channels(change) >= least)), ink, np.uint8(0))
        pixels = (boxes - np.tile(start, 2)) * scale
        drawn = sums_in(integral(ink), pixels)
        return list((drawn > 0) & (sums_in(integral(visible), pixels) >= _LEAST_SHARE * drawn))

    def _text_objects(self) -> tuple[list[Object], NDArray[np.int64]]:
        """Return the text objects, and per character the number of its object; -1 if PDFium added it."""
        numbers: dict[int, int] = {}
        objects: list[Object] = []
        of_character = np.full(self._count, -1)
        for number in range(self._count):
            if text := pdfium.FPDFText_GetTextObject(self._textpage, number):
                key = addressof(text.contents)
                if key not in numbers:
                    numbers[key] = len(objects)
                    objects.append(text)
                of_character[number] = numbers[key]
        return objects, of_character

    def _styles(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return per character whether its mode is a visible one, and whether it is large enough to be read."""
        firsts = np.unique(self._object_of, return_index=True)
        visible, large = np.ones(len(self._objects) + 1, bool), np.ones(len(self._objects) + 1, bool)
        for number, first in zip(*firsts, strict=True):
            if number >= 0:
                mode = pdfium.FPDFTextObj_GetTextRenderMode(self._objects[number])
                visible[number] = mode not in _INVISIBLE_MODES
                large[number] = self._line_height(int(first)) >= _LEAST_POINTS
        return visible[self._object_of], large[self._object_of]

    def _line_height(self, number: int) -> float:
        """Return the height of a character's line box in points, across its direction."""
        box = pdfium.FS_RECTF()
        if not pdfium.FPDFText_GetLooseCharBox(self._textpage, number, box):
            return math.inf
        return max(abs(box.top - box.bottom), abs(box.right - box.left))

    def _boxes_in_points(self) -> NDArray[np.float64]:
        boxes = np.zeros((self._count, 4))
        left, right, bottom, top = c_double(), c_double(), c_double(), c_double()
        for number in range(self._count):
            if pdfium.FPDFText_GetCharBox(self._textpage, number, left, right, bottom, top):
                boxes[number] = left.value, top.value, right.value, bottom.value
        return boxes

    def _has_contrast(self, number: int) -> bool:
        assert self._pixels is not None
        ((left, top, right, bottom),) = whole_boxes(self.boxes[number : number + 1], self._size)
        part = self._pixels[top:bottom, left:right]
        return bool(part.size) and int(part.max()) - int(part.min()) >= _LEAST_CONTRAST


def _share(values: NDArray[Any], share: NDArray[Any] | int) -> NDArray[Any]:
    """Return ``values * share / 255``; not by OpenCV, which rounds differently on different processors."""
    return np.asarray((values.astype(np.uint16) * share + 127) // 255, np.uint8)
