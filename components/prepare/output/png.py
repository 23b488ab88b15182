"""Encodes pages as pictures.

The PNG is assembled here: 8-bit grey, no filter on any row, one IDAT chunk deflated by Intel's ISA-L. A page is mostly
runs of white, which deflate packs well without the filters that take most of the time of other encoders.

Measured on 48 text pages of 1024x1024 and 2,000 characters, one core: 0.78 ms and 84 kB a page; Pillow takes 14.3 ms
and 69 kB by default, 8.0 ms and 86 kB with compress_level=1 (``tests/benchmarks/encoding.py``).
"""

import struct
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = struct.pack(">I4sI", 0, b"IEND", isal_zlib.crc32(b"IEND"))
_LOSSY_QUALITY = 90
# A dataset's bytes must not depend on the machine. Level 1 gives the same bytes on x86-64 processors with SSE4.2 (qemu:
# Nehalem, Sandy Bridge, Haswell, EPYC; AVX-512). Level 3 differs between AVX2 and AVX-512. Without SSE4.2 ISA-L hashes
# differently, and so does its stream: reference_pages.py detects that.
_DEFLATE_LEVEL = 1
_FIRST_BYTES = 16

_LOSSY_OPTIONS: dict[str, Sequence[int]] = {
    "webp": (cv2.IMWRITE_WEBP_QUALITY, _LOSSY_QUALITY),
    "jpg": (cv2.IMWRITE_JPEG_QUALITY, _LOSSY_QUALITY),
}


def encode_png(page: npt.NDArray[np.uint8]) -> bytes:
    """Return the page, (H, W) grey levels, as a lossless PNG; the same page gives the same bytes.

    Raises:
        ValueError: not a two-dimensional uint8 array, or an empty one.
    """
    _check(page)
    height, width = page.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row starts with its filter type: 0, none
    rows[:, 1:] = page
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = _deflated(rows.reshape(-1))
    return b"".join((_SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", data), _END))


def encode_image(page: npt.NDArray[np.uint8], image_format: str) -> bytes:
    """Return the page, (H, W) grey levels, as ``"png"`` (lossless), ``"webp"`` or ``"jpg"`` (quality 90).

    Raises:
        ValueError: not a two-dimensional uint8 array, an empty one, one too large for the format (WebP allows 16,383
            pixels a side, JPEG 65,500), or an unknown format.
    """
    if image_format == "png":
        return encode_png(page)
    _check(page)
    if image_format not in _LOSSY_OPTIONS:
        raise ValueError(f"image_format must be png, webp or jpg, not {image_format!r}")
    try:
        encoded, data = cv2.imencode(f".{image_format}", page, _LOSSY_OPTIONS[image_format])
    except cv2.error as error:
        raise ValueError(f"{page.shape} pixels as {image_format}: {error}") from error
    if not encoded:
        raise ValueError(f"a page of {page.shape} pixels does not fit into {image_format}")
    return data.tobytes()


def _deflated(content: npt.NDArray[np.uint8]) -> bytes:
    """Return a zlib stream of ``content`` (flat); nothing else decides its bytes.

    At the start of a stream ISA-L's fast loop hashes its own address instead of the third byte's data
    (``igzip_icf_body_h1_gr_bt.asm``, ``.write_first_byte``), so that ``isal_zlib.compress`` packs a page differently in
    one process of some thousands. The first 16 bytes, flushed by themselves, go through the routine for a stream's end,
    which hashes data only, and the fast loop then goes on without its start. See docs/reliability.md.
    """
    stream = isal_zlib.compressobj(_DEFLATE_LEVEL)
    first = stream.compress(content[:_FIRST_BYTES]) + stream.flush(isal_zlib.Z_SYNC_FLUSH)
    return first + stream.compress(content[_FIRST_BYTES:]) + stream.flush()


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    crc = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I4s", len(data), kind), data, struct.pack(">I", crc)


def _check(page: npt.NDArray[np.uint8]) -> None:
    if page.dtype != np.uint8 or page.ndim != 2 or not page.size:
        raise ValueError(f"a page must be a non-empty (H, W) array of uint8, not {page.shape} of {page.dtype}")
