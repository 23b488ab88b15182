"""Page pictures from files, folders and PDFs, in 8-bit grey as in training."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .refusal import RefusalError

READ = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".pdf"}
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""Those of ``READ``. Pillow knows forty more; for one of them (EPS) it starts another program."""
PHOTOMETRIC, MIN_IS_WHITE = 262, 0  # TIFF's tag PhotometricInterpretation
PDF_SCALE = 150 / 72  # pixels per PDF point: 150 dpi


@dataclass(frozen=True)
class PagePicture:
    """One page: its file, its number in the file (from 1), and its picture (PIL, RGB)."""

    file: Path
    number: int
    image: Any


def listed(names: list[str]) -> list[Path]:
    """Return the given files and the files in the given folders, in order.

    Raises:
        RefusalError: a name does not exist, or no folder holds a picture or PDF.
    """
    if missing := [name for name in names if not Path(name).exists()]:
        raise RefusalError(f"no such file: {', '.join(missing)}")
    files: list[Path] = []
    for name in map(Path, names):
        files += sorted(file for file in name.iterdir() if file.suffix.lower() in READ) if name.is_dir() else [name]
    if not files:
        raise RefusalError(f"no pictures or PDFs: {', '.join(names)}")
    return files


def pictures(path: Path) -> Iterator[PagePicture]:
    """Yield each page of a picture file or PDF.

    Raises:
        RefusalError: the file cannot be read, or is a PDF and pypdfium2 is not installed.
    """
    if path.suffix.lower() != ".pdf":
        yield PagePicture(path, 1, opened_page(path))
        return
    try:
        import pypdfium2
    except ImportError as error:
        raise RefusalError("PDFs are read with pypdfium2: pip install pypdfium2") from error
    try:
        for number, page in enumerate(pypdfium2.PdfDocument(path), start=1):
            yield PagePicture(path, number, page.render(scale=PDF_SCALE).to_pil().convert("L").convert("RGB"))
    except RuntimeError as error:  # PdfiumError
        raise RefusalError(f"{path}: cannot be read as a PDF ({error})") from error


def opened_page(path: str | Path, most_pixels: float = math.inf) -> Any:
    """Return a picture file in 8-bit grey, as RGB.

    Raises:
        RefusalError: it cannot be read as a picture, or it has more than ``most_pixels``.
    """
    try:
        # A stream, not the path: Pillow 13 memory-maps raw TIFFs and swaps the sides of a rotated page.
        with Path(path).open("rb") as stream:
            return decoded_page(stream, str(path), most_pixels)
    except OSError as error:
        raise RefusalError(f"{path}: cannot be read as a picture ({error})") from error


def decoded_page(stream: IO[bytes], name: str, most_pixels: float = math.inf) -> Any:
    """Return a picture's bytes in 8-bit grey, as RGB; ``name`` is for the error.

    Raises:
        RefusalError: they cannot be read as a picture, or it has more than ``most_pixels``.
    """
    from PIL import Image

    try:
        with Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise RefusalError(f"{name}: {image.width} x {image.height} pixels, at most {most_pixels} are read")
            return gray_page(image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RefusalError(f"{name}: cannot be read as a picture ({error})") from error


def gray_page(image: Any) -> Any:
    """Return a picture in 8-bit grey, upright, on white paper; ValueError if its black level is unknown."""
    import numpy as np
    from PIL import Image, ImageChops, ImageOps

    inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == MIN_IS_WHITE
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips everything above 255
        gray = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
        return ImageChops.invert(gray) if inverted else gray
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, whose black and white are unknown")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("L")
    return image.convert("L")
