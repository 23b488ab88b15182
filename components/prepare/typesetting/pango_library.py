"""The system's Pango, cairo and fontconfig through cffi: needs the shared libraries, but no headers or compiler.

PyGObject, the usual binding, has no wheels and must be built against development headers. The shared libraries come
with any desktop, with Chromium, or with ``libpangocairo-1.0-0``.
"""

from functools import cache
from typing import Any

import cffi

DEBIAN_PACKAGES = "libpangocairo-1.0-0 libpangoft2-1.0-0"

_DECLARATIONS = """
typedef int gboolean;
typedef struct _PangoLayout PangoLayout;
typedef struct _PangoContext PangoContext;
typedef struct _PangoFontMap PangoFontMap;
typedef struct _PangoFontDescription PangoFontDescription;
typedef struct _PangoLanguage PangoLanguage;
typedef struct _PangoAttrList PangoAttrList;
typedef struct _PangoAttribute PangoAttribute;
typedef struct _FcConfig FcConfig;
typedef struct _FcPattern FcPattern;
typedef struct _cairo_surface cairo_surface_t;
typedef struct _cairo cairo_t;
typedef struct _cairo_font_options cairo_font_options_t;
typedef struct _GSList { void *data; struct _GSList *next; } GSList;
typedef struct { int x, y, width, height; } PangoRectangle;
typedef struct { void *shape_engine; void *lang_engine; void *font; } PangoAnalysis;
typedef struct { int offset; int length; int num_chars; PangoAnalysis analysis; } PangoItem;
typedef struct { PangoItem *item; void *glyphs; } PangoGlyphItem;
typedef struct { PangoLayout *layout; int start_index; int length; GSList *runs; unsigned int flags; } PangoLayoutLine;

void g_object_unref(void *object);

FcConfig *FcConfigCreate(void);
void FcConfigDestroy(FcConfig *config);
int FcConfigAppFontAddFile(FcConfig *config, const char *file);
FcPattern *FcFreeTypeQuery(const char *file, unsigned int id, void *blanks, int *count);
int FcPatternGetString(FcPattern *pattern, const char *object, int id, unsigned char **value);
int FcPatternGetInteger(FcPattern *pattern, const char *object, int id, int *value);
void FcPatternDestroy(FcPattern *pattern);
int FcGetVersion(void);

const char *pango_version_string(void);
PangoContext *pango_font_map_create_context(PangoFontMap *fontmap);
PangoLanguage *pango_language_from_string(const char *language);
void pango_context_set_language(PangoContext *context, PangoLanguage *language);
void pango_context_set_base_dir(PangoContext *context, int direction);
void pango_context_set_round_glyph_positions(PangoContext *context, gboolean round_positions);
PangoFontDescription *pango_font_description_copy(PangoFontDescription *description);
void pango_font_description_set_absolute_size(PangoFontDescription *description, double size);
void pango_font_description_free(PangoFontDescription *description);
PangoAttrList *pango_attr_list_new(void);
void pango_attr_list_insert(PangoAttrList *list, PangoAttribute *attribute);
void pango_attr_list_unref(PangoAttrList *list);
PangoAttribute *pango_attr_insert_hyphens_new(gboolean insert_hyphens);
PangoLayout *pango_layout_new(PangoContext *context);
void pango_layout_set_attributes(PangoLayout *layout, PangoAttrList *attributes);
void pango_layout_set_font_description(PangoLayout *layout, const PangoFontDescription *description);
void pango_layout_set_width(PangoLayout *layout, int width);
void pango_layout_set_wrap(PangoLayout *layout, int wrap);
void pango_layout_set_auto_dir(PangoLayout *layout, gboolean auto_dir);
void pango_layout_set_text(PangoLayout *layout, const char *text, int length);
GSList *pango_layout_get_lines_readonly(PangoLayout *layout);
int pango_layout_get_unknown_glyphs_count(PangoLayout *layout);
void pango_layout_line_get_extents(PangoLayoutLine *line, PangoRectangle *ink, PangoRectangle *logical);

PangoFontMap *pango_cairo_font_map_new_for_font_type(int font_type);
void pango_cairo_context_set_font_options(PangoContext *context, const cairo_font_options_t *options);
void pango_cairo_show_layout_line(cairo_t *cr, PangoLayoutLine *line);

void pango_fc_font_map_set_config(PangoFontMap *fontmap, FcConfig *config);
FcPattern *pango_fc_font_get_pattern(void *font);
PangoFontDescription *pango_fc_font_description_from_pattern(FcPattern *pattern, gboolean include_size);

const char *cairo_version_string(void);
const char *hb_version_string(void);
cairo_font_options_t *cairo_font_options_create(void);
void cairo_font_options_destroy(cairo_font_options_t *options);
void cairo_font_options_set_antialias(cairo_font_options_t *options, int antialias);
void cairo_font_options_set_hint_style(cairo_font_options_t *options, int hint_style);
void cairo_font_options_set_hint_metrics(cairo_font_options_t *options, int hint_metrics);
int cairo_format_stride_for_width(int format, int width);
cairo_surface_t *cairo_image_surface_create_for_data(
    unsigned char *data, int format, int width, int height, int stride);
void cairo_surface_flush(cairo_surface_t *surface);
void cairo_surface_destroy(cairo_surface_t *surface);
cairo_t *cairo_create(cairo_surface_t *surface);
void cairo_destroy(cairo_t *cr);
int cairo_status(cairo_t *cr);
const char *cairo_status_to_string(int status);
void cairo_set_operator(cairo_t *cr, int operator);
void cairo_move_to(cairo_t *cr, double x, double y);
"""

SCALE = 1024
"""Pango units per pixel (PANGO_SCALE)."""
WRAP_WORD_CHAR = 2
DIRECTION_LTR, DIRECTION_RTL = 0, 1
CAIRO_FONT_TYPE_FT = 1
CAIRO_FORMAT_A8 = 2
CAIRO_ANTIALIAS_GRAY = 2
CAIRO_OPERATOR_ADD = 12
CAIRO_HINT_STYLE_NONE = 1
CAIRO_HINT_METRICS_OFF = 1
CAIRO_STATUS_INVALID_SIZE = 32

_SHARED_OBJECTS = {
    "gobject": ("libgobject-2.0.so.0", "libgobject-2.0.dylib"),
    "fontconfig": ("libfontconfig.so.1", "libfontconfig.1.dylib"),
    "harfbuzz": ("libharfbuzz.so.0", "libharfbuzz.0.dylib"),
    "cairo": ("libcairo.so.2", "libcairo.2.dylib"),
    "pango": ("libpango-1.0.so.0", "libpango-1.0.0.dylib"),
    "pangoft2": ("libpangoft2-1.0.so.0", "libpangoft2-1.0.0.dylib"),
    "pangocairo": ("libpangocairo-1.0.so.0", "libpangocairo-1.0.0.dylib"),
}


class PangoLibrary:
    """The loaded libraries, one attribute each, and cffi's ``ffi``.

    Raises:
        OSError: names the missing library.
    """

    gobject: Any
    fontconfig: Any
    harfbuzz: Any
    cairo: Any
    pango: Any
    pangoft2: Any
    pangocairo: Any

    def __init__(self) -> None:
        self.ffi = cffi.FFI()
        self.ffi.cdef(_DECLARATIONS)
        for name, files in _SHARED_OBJECTS.items():
            setattr(self, name, self._opened(files))

    def _opened(self, files: tuple[str, ...]) -> Any:
        for file in files:
            try:
                return self.ffi.dlopen(file)
            except OSError:
                continue
        raise OSError(f"{files[0]} is not installed")

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that shape and draw."""
        number = self.fontconfig.FcGetVersion()
        return {
            "pango": self.ffi.string(self.pango.pango_version_string()).decode(),
            "harfbuzz": self.ffi.string(self.harfbuzz.hb_version_string()).decode(),
            "cairo": self.ffi.string(self.cairo.cairo_version_string()).decode(),
            "fontconfig": f"{number // 10000}.{number // 100 % 100}.{number % 100}",
        }


@cache
def pango_library() -> PangoLibrary:
    """Return the libraries; they are loaded once per process.

    Raises:
        OSError: names the missing library.
    """
    return PangoLibrary()
