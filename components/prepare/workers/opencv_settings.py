"""Switches off what makes OpenCV's results depend on the machine."""

import cv2


def make_opencv_reproducible() -> None:
    """Switch off OpenCV's own threads and, for the calling thread, Intel's primitives (IPP).

    IPP rounds differently on different processors, and OpenCV keeps its switch per thread: a thread that has not called
    this still uses IPP. One process per core draws pages, so more threads would only compete. Takes 1.2 µs.
    """
    cv2.setNumThreads(1)
    cv2.ipp.setUseIPP(False)
