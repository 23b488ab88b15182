"""A page as the PNG file that is stored."""

import hashlib
import io

from PIL import Image


def png_of(page: Image.Image) -> tuple[bytes, str]:
    """Return a page's PNG file and its SHA-256; the pixels alone, without what the upload's file said of itself."""
    if page.mode == "RGB":
        red, green, blue = (band.tobytes() for band in page.split())
        page = page.getchannel(0) if red == green == blue else page
    clean = Image.frombytes(page.mode, page.size, page.tobytes())  # has no EXIF data, comments or profiles
    stream = io.BytesIO()
    clean.save(stream, format="PNG")
    content = stream.getvalue()
    return content, hashlib.sha256(content).hexdigest()
