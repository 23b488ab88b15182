"""Sums over the boxes of many characters at once."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def whole_boxes(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the boxes in whole pixels of a picture of ``size``, with the pixels that they touch."""
    limits = np.array([*size, *size])
    whole = np.concatenate([np.floor(boxes[:, :2]), np.maximum(np.ceil(boxes[:, 2:]), np.floor(boxes[:, :2]) + 1)], 1)
    return np.asarray(np.clip(whole, 0, limits), np.int64)


def most_of_channels(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the largest of the three values of each pixel."""
    return cv2.max(cv2.max(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def integral(values: NDArray[Any]) -> NDArray[Any]:
    """Return the integral of an (H, W) array, (H + 1, W + 1)."""
    return cv2.integral(values.view(np.uint8) if values.dtype == bool else values)


def sums_in(total: NDArray[Any], boxes: NDArray[np.float64]) -> NDArray[Any]:
    """Return the sum of the values in each box, of the integral of the values."""
    left, top, right, bottom = whole_boxes(boxes, (total.shape[1] - 1, total.shape[0] - 1)).T
    return np.asarray(total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left])
