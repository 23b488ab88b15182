"""Text laid out by Pango and drawn by cairo: every script, with fallback to other fonts for missing glyphs."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from components.prepare.typesetting import pango_library
from components.prepare.typesetting.fonts import FontFace, covered_code_points
from components.prepare.typesetting.pango_library import SCALE
from components.prepare.typesetting.text_engine import CannotBeSetError, Line, PlacedLine, TextStyle

_LANGUAGE_OF_UNKNOWN = "en"  # Pango's own default is the locale's, which differs between machines


class PangoEngine:
    """Pango with only the configured fonts: the machine's fontconfig settings and other fonts have no effect.

    Raises:
        OSError: Pango is not installed.
    """

    def __init__(self, faces: Sequence[FontFace]) -> None:
        self._library = pango_library.pango_library()
        self._faces = list(faces)
        versions = self._library.versions()
        self.name = " ".join(f"{name}-{version}" for name, version in versions.items())
        self._context = self._new_context(faces)
        self._descriptions = [self._description(face) for face in faces]
        self._attributes = self._without_hyphens()

    def lay_out(self, text: str, style: TextStyle, width: int, right_to_left: bool) -> list[Line]:
        """See ``TextEngine``; glyphs come from the preferred font, else from any of the others."""
        ffi, pango = self._library.ffi, self._library.pango
        self._set_language(style.lang)
        direction = pango_library.DIRECTION_RTL if right_to_left else pango_library.DIRECTION_LTR
        pango.pango_context_set_base_dir(self._context, direction)
        layout = ffi.gc(pango.pango_layout_new(self._context), self._library.gobject.g_object_unref)
        pango.pango_layout_set_auto_dir(layout, 0)
        pango.pango_layout_set_attributes(layout, self._attributes)
        pango.pango_layout_set_font_description(layout, self._sized(style.faces[0], style.font_size))
        pango.pango_layout_set_wrap(layout, pango_library.WRAP_WORD_CHAR)
        pango.pango_layout_set_width(layout, width * SCALE)
        encoded = text.encode("utf-8")
        pango.pango_layout_set_text(layout, encoded, len(encoded))
        lines = self._lines(layout, encoded)
        if pango.pango_layout_get_unknown_glyphs_count(layout):
            raise CannotBeSetError("glyph_missing")
        if any(line.width > width for line in lines):
            raise CannotBeSetError("does_not_fit")
        return lines

    def used_faces(self, lines: Sequence[PlacedLine], style: TextStyle) -> list[int]:
        """See ``TextEngine``."""
        characters = set("".join(placed.line.text for placed in lines))
        if covered_code_points(self._faces[style.faces[0]]).issuperset(map(ord, characters)):
            return [style.faces[0]]
        letters: Counter[FontFace] = Counter()
        for placed in lines:
            for font, count in self._runs_of(placed.line.handle[1]):
                letters[font] += count
        used = [face for face in style.faces if self._faces[face] in letters]
        return sorted(used, key=lambda face: -letters[self._faces[face]])

    def draw(self, lines: Sequence[PlacedLine], style: TextStyle, width: int, height: int) -> np.ndarray:
        """See ``TextEngine``."""
        ffi, cairo = self._library.ffi, self._library.cairo
        stride = cairo.cairo_format_stride_for_width(pango_library.CAIRO_FORMAT_A8, width)
        coverage = np.zeros((height, stride), np.uint8)
        surface = ffi.gc(
            cairo.cairo_image_surface_create_for_data(
                ffi.cast("unsigned char *", ffi.from_buffer(coverage)),
                pango_library.CAIRO_FORMAT_A8,
                width,
                height,
                stride,
            ),
            cairo.cairo_surface_destroy,
        )
        painter = ffi.gc(cairo.cairo_create(surface), cairo.cairo_destroy)
        cairo.cairo_set_operator(painter, pango_library.CAIRO_OPERATOR_ADD)
        for placed in lines:
            _, pointer = placed.line.handle
            cairo.cairo_move_to(painter, placed.x, placed.baseline)
            self._library.pangocairo.pango_cairo_show_layout_line(painter, pointer)
        cairo.cairo_surface_flush(surface)
        self._check_drawn(painter)
        return coverage[:, :width]

    def _check_drawn(self, painter: Any) -> None:
        """Check for errors: after one, cairo silently draws nothing more and the rest of the page would be blank."""
        status = self._library.cairo.cairo_status(painter)
        if status == pango_library.CAIRO_STATUS_INVALID_SIZE:  # above 32,767 pixels
            raise CannotBeSetError("does_not_fit")
        if status:
            reason = self._library.ffi.string(self._library.cairo.cairo_status_to_string(status)).decode()
            raise RuntimeError(f"cairo cannot draw: {reason}")

    def _lines(self, layout: Any, encoded: bytes) -> list[Line]:
        """Return the layout's lines; each keeps its layout alive, because the layout owns the line's memory."""
        ffi, pango = self._library.ffi, self._library.pango
        box = ffi.new("PangoRectangle *")
        node = pango.pango_layout_get_lines_readonly(layout)
        lines: list[Line] = []
        start = 0
        while node != ffi.NULL:
            pointer = ffi.cast("PangoLayoutLine *", node.data)
            pango.pango_layout_line_get_extents(pointer, ffi.NULL, box)
            text = encoded[pointer.start_index : pointer.start_index + pointer.length].decode("utf-8")
            end = start + len(text)
            lines.append(
                Line(
                    start=start,
                    end=end,
                    text=text.strip(),
                    width=box.width / SCALE,
                    ascent=-box.y / SCALE,
                    descent=(box.y + box.height) / SCALE,
                    handle=(layout, pointer),
                )
            )
            start = end
            node = node.next
        return lines

    def _runs_of(self, line: Any) -> Iterator[tuple[FontFace, int]]:
        """Yield the font and the number of characters of each run in a line."""
        ffi, library = self._library.ffi, self._library
        file, index = ffi.new("unsigned char **"), ffi.new("int *")
        node = line.runs
        while node != ffi.NULL:
            item = ffi.cast("PangoGlyphItem *", node.data).item
            pattern = library.pangoft2.pango_fc_font_get_pattern(item.analysis.font)
            library.fontconfig.FcPatternGetString(pattern, b"file", 0, file)
            library.fontconfig.FcPatternGetInteger(pattern, b"index", 0, index)
            yield FontFace(Path(os.fsdecode(ffi.string(file[0]))), index[0]), item.num_chars
            node = node.next

    def _new_context(self, faces: Sequence[FontFace]) -> Any:
        library, ffi = self._library, self._library.ffi
        config = library.fontconfig.FcConfigCreate()
        for face in faces:
            if not library.fontconfig.FcConfigAppFontAddFile(config, bytes(face.path)):
                raise ValueError(f"fontconfig does not read {face.path}, which find_fonts accepted")
        fontmap = library.pangocairo.pango_cairo_font_map_new_for_font_type(pango_library.CAIRO_FONT_TYPE_FT)
        library.pangoft2.pango_fc_font_map_set_config(fontmap, config)
        library.fontconfig.FcConfigDestroy(config)
        context = ffi.gc(library.pango.pango_font_map_create_context(fontmap), library.gobject.g_object_unref)
        library.gobject.g_object_unref(fontmap)
        options = ffi.gc(library.cairo.cairo_font_options_create(), library.cairo.cairo_font_options_destroy)
        library.cairo.cairo_font_options_set_antialias(options, pango_library.CAIRO_ANTIALIAS_GRAY)
        library.cairo.cairo_font_options_set_hint_style(options, pango_library.CAIRO_HINT_STYLE_NONE)
        library.cairo.cairo_font_options_set_hint_metrics(options, pango_library.CAIRO_HINT_METRICS_OFF)
        library.pangocairo.pango_cairo_context_set_font_options(context, options)
        library.pango.pango_context_set_round_glyph_positions(context, 0)
        return context

    def _description(self, face: FontFace) -> Any:
        library, ffi = self._library, self._library.ffi
        count = ffi.new("int *")
        pattern = library.fontconfig.FcFreeTypeQuery(bytes(face.path), face.index, ffi.NULL, count)
        if pattern == ffi.NULL:
            raise ValueError(f"fontconfig does not read {face.path}, which find_fonts accepted")
        pattern = ffi.gc(pattern, library.fontconfig.FcPatternDestroy)
        return ffi.gc(
            library.pangoft2.pango_fc_font_description_from_pattern(pattern, 0),
            library.pango.pango_font_description_free,
        )

    def _without_hyphens(self) -> Any:
        """Switch off the hyphens that Pango draws where it breaks a long word: the label lacks them."""
        pango = self._library.pango
        attributes = self._library.ffi.gc(pango.pango_attr_list_new(), pango.pango_attr_list_unref)
        pango.pango_attr_list_insert(attributes, pango.pango_attr_insert_hyphens_new(0))
        return attributes

    @lru_cache(maxsize=1024)  # noqa: B019 (a process has one engine and keeps it)
    def _sized(self, face: int, font_size: int) -> Any:
        pango = self._library.pango
        copy = pango.pango_font_description_copy(self._descriptions[face])
        pango.pango_font_description_set_absolute_size(copy, font_size * SCALE)
        return self._library.ffi.gc(copy, pango.pango_font_description_free)

    def _set_language(self, lang: str) -> None:
        tag = _LANGUAGE_OF_UNKNOWN if lang == "und" else lang
        pango = self._library.pango
        pango.pango_context_set_language(self._context, pango.pango_language_from_string(tag.encode("ascii", "ignore")))
