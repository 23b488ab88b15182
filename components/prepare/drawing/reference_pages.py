"""Checks that this process draws and encodes pages like every other machine.

Two libraries give other bytes on processors without the instructions that they were tested with: ISA-L's deflate
without SSE4.2, and OpenCV's rotation without AVX2 (see docs/reliability.md). Both are decided once per process.
"""

import hashlib

import numpy as np

from components.prepare.output.png import encode_png
from components.prepare.rendering.augmentation import augment
from components.prepare.settings.augmentation_settings import AugmentationSettings

# The same with AVX2 and AVX-512 (Intel), and under qemu as Haswell and EPYC; isal 1.9.1, opencv 5.0.0.93.
_REFERENCE = "6c612317"
_ROTATION = AugmentationSettings(rotation_degrees=(1.5, 1.5), skew_degrees=(0.7, 0.7))


def pixel_variant() -> str:
    """Return "" if this process draws like the reference, else 8 hexadecimal digits that name how it draws.

    Processes with the same variant give the same bytes for a page. Takes 3 ms.
    """
    digest = _digest()
    return "" if digest == _REFERENCE else digest


def _digest() -> str:
    y, x = np.mgrid[0:128, 0:360].astype(np.int64)
    strokes = (x * x // 7 + y * y // 5 + 3 * x * y // 11) % 97 < 41
    lines = np.where(strokes & (y % 24 < 15), (x * y) % 61, 250).astype(np.uint8)
    page = np.pad(lines, 24, constant_values=250)  # the margin lets the page rotate
    turned = augment(page, _ROTATION, seed=1, paper=250).page
    return hashlib.sha256(encode_png(page) + encode_png(turned)).hexdigest()[:8]
