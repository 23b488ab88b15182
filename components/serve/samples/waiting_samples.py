"""Pages that wait to be stored or to be read a second time: bounded, taken in their order."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from PIL import Image

from components.serve.batching.page_job import PageReading
from components.serve.samples.stored_reading import Role

_MOST_PIXELS = 128 * 1024**2  # of all pages that wait, 3 bytes each


@dataclass(frozen=True)
class Sample:
    """A page that was read.

    Attributes:
        number: in the request, from 1.
        instruction: the client's; it is not stored.
        max_new_tokens: the longest answer that the client asked for; None: the version's.
        read_at: when the request was answered; both readings of a page have the same.
        second_version: the version that shall read the page too; None: no other.
    """

    request_id: str
    number: int
    role: Role
    image: Image.Image
    reading: PageReading
    instruction: str | None
    max_new_tokens: int | None
    read_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    second_version: str | None = None

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.image.width * self.image.height


class WaitingSamples:
    """The queue; every method may be called from any thread.

    Args:
        max_pages: pages that may wait.
    """

    def __init__(self, max_pages: int) -> None:
        self._max_pages = max_pages
        self._samples: deque[Sample] = deque()
        self._pixels = 0
        self._changed = threading.Condition()
        self.closed = False
        """no page is taken any more; those that wait stay"""

    def __len__(self) -> int:
        return len(self._samples)

    def put(self, samples: Sequence[Sample]) -> bool:
        """Add a request's pages, all or none; return whether there was room for them."""
        pixels = sum(sample.pixels for sample in samples)
        with self._changed:
            room = len(self._samples) + len(samples) <= self._max_pages and self._pixels + pixels <= _MOST_PIXELS
            if self.closed or not room:
                return False
            self._samples.extend(samples)
            self._pixels += pixels
            self._changed.notify_all()
            return True

    def take(self, until: float) -> Sample | None:
        """Wait for a page until ``time.monotonic()`` is ``until``, or the queue is closed; None: there is none."""
        with self._changed:
            if not self._samples and not self.closed:
                self._changed.wait(max(0.0, until - time.monotonic()))
            if not self._samples:
                return None
            sample = self._samples.popleft()
            self._pixels -= sample.pixels
            return sample

    def close(self) -> None:
        """Take no further page, and end every ``take`` that waits."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
