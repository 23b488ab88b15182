"""Decodes page pictures to grey levels."""

import io
import struct

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from isal.isal_zlib import IsalError
from PIL import Image

from components.shared.page_reader.pictures import FORMATS

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_HEADER = (8, 0, 0, 0, 0)
"""Bit depth 8, colour type grey, deflate, adaptive filters, not interlaced (PNG specification, 11.2.1 IHDR)."""


def decode_gray(image_bytes: bytes) -> npt.NDArray[np.uint8]:
    """Return the picture's grey levels, (H, W) uint8, contiguous and writable.

    ISA-L inflates PNGs like those that prepare writes. OpenCV decodes everything else: colours are weighted by ITU-R
    601, alpha and EXIF orientation are ignored, 16-bit levels are divided by 256.

    Raises:
        OSError: not a picture (``PIL.UnidentifiedImageError``), or a truncated or corrupt one.
        PIL.Image.DecompressionBombError: it has more pixels than Pillow opens.
    """
    page = decode_unfiltered_png(image_bytes)
    if page is not None:
        return page
    with Image.open(io.BytesIO(image_bytes), formats=FORMATS) as header:  # rejects non-images and decompression bombs
        kind = header.format
    import cv2  # 60 MB; prepare's own PNGs can be read without it

    decoded = cv2.imdecode(np.frombuffer(image_bytes, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None:
        raise OSError(
            f"the {kind} picture cannot be decoded: truncated, corrupt or of a kind that OpenCV does not read"
        )
    return np.asarray(decoded, dtype=np.uint8)


def decode_unfiltered_png(image_bytes: bytes) -> npt.NDArray[np.uint8] | None:
    """Return the levels of an 8-bit grey PNG without row filters; None for any other file, including broken ones."""
    if image_bytes[:8] != _SIGNATURE:
        return None
    chunks = _png_chunks(image_bytes)
    if chunks is None:
        return None
    header, data = chunks
    width, height = struct.unpack_from(">II", header)
    if not width or not height or width * height > 2 * (Image.MAX_IMAGE_PIXELS or width * height):
        return None
    size = height * (width + 1)
    inflate = isal_zlib.decompressobj()
    try:
        # One byte more than expected: detects a stream that is too long, and stops a decompression bomb.
        levels = inflate.decompress(data, size + 1)
    except IsalError:  # type: ignore[misc]  # isal's stub calls the class an instance
        return None
    if len(levels) != size or not inflate.eof or inflate.unused_data:
        return None
    rows = np.frombuffer(levels, np.uint8).reshape(height, width + 1)
    return None if rows[:, 0].any() else rows[:, 1:].copy()


def _png_chunks(image_bytes: bytes) -> tuple[bytes, bytes] | None:
    """Return the header and the joined data of a grey PNG with valid chunks; None for any other file."""
    header: bytes | None = None
    data: list[bytes] = []
    place = len(_SIGNATURE)
    view = memoryview(image_bytes)
    while place + 12 <= len(image_bytes):
        length, kind = struct.unpack_from(">I4s", image_bytes, place)
        end = place + 8 + length
        if end + 4 > len(image_bytes):
            return None
        if isal_zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return None
        content = image_bytes[place + 8 : end]
        if header is None:
            if kind != b"IHDR" or length != 13 or tuple(content[8:]) != _GREY_HEADER:
                return None
            header = content
        elif kind == b"IDAT":
            data.append(content)
        elif kind == b"IEND":
            return header, data[0] if len(data) == 1 else b"".join(data)
        elif not kind[0] & 0x20:  # a critical chunk that grey PNGs do not have
            return None
        place = end + 4
    return None
