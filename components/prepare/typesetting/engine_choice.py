"""Chooses the text engine that draws the pages, and says why."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from components.prepare.typesetting.fonts import FontFace
from components.prepare.typesetting.pango_engine import PangoEngine
from components.prepare.typesetting.pango_library import DEBIAN_PACKAGES
from components.prepare.typesetting.pillow_engine import PillowEngine
from components.prepare.typesetting.text_engine import TextEngine
from components.shared.errors import UserError


class EngineChoice(NamedTuple):
    """An engine and the reason for choosing it, as one line for the log."""

    engine: TextEngine
    reason: str


def choose_engine(wanted: Literal["auto", "pango", "pillow"], faces: Sequence[FontFace]) -> EngineChoice:
    """Return the engine that draws with ``faces``.

    Raises:
        UserError: Pango is requested and not installed.
    """
    if wanted == "pillow":
        return EngineChoice(PillowEngine(faces), "text_engine is pillow")
    try:
        return EngineChoice(PangoEngine(faces), "Pango is installed")
    except OSError as error:
        if wanted == "pango":
            raise UserError(
                f"Pango cannot be used ({error})",
                where="text_engine pango",
                mend=f"install it (Debian: apt-get install {DEBIAN_PACKAGES}), or set text_engine to auto",
            ) from error
        reason = (
            f"Pango, which draws every script and has font fallback, cannot be used ({error}); "
            f"Debian has it in {DEBIAN_PACKAGES}"
        )
        return EngineChoice(PillowEngine(faces), reason)
