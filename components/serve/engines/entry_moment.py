"""When waiting pages enter a running batch: every entry stops the pages that are being read.

An entry has a fixed part, which is the same for one page and for many: hundreds of launches on a GPU. Pages that
enter one by one stop the others for it again and again; pages that wait leave rows of the batch idle. So waiting pages
enter when they have waited, together, as long as the entry would make the running pages wait, together. Whatever
comes next, that costs at most twice what the best moment would have cost (the ski-rental problem; Karlin, Manasse,
Rudolph and Sleator, "Competitive snoopy caching", 1988).
"""

from collections import deque

_ENTRIES_REMEMBERED = 64


class EntryMoment:
    """Decides for one batch. Times are seconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, float]] = deque(maxlen=_ENTRIES_REMEMBERED)
        self._waited = 0.0  # page-seconds
        self._looked: float | None = None

    def has_come(self, waiting: int, running: int, now: float) -> bool:
        """Return whether the pages that could enter shall do so; called again and again while there are any.

        Args:
            waiting: pages that are prepared and have a place.
            running: pages that are being read.
        """
        if self._looked is not None:
            self._waited += waiting * (now - self._looked)
        self._looked = now if waiting else None
        if not waiting:
            self._waited = 0.0
            return False
        return self._waited >= running * self.fixed_seconds()

    def entered(self, pages: int, seconds: float) -> None:
        """Take note of an entry."""
        self._entries.append((pages, seconds))
        self._waited, self._looked = 0.0, None

    def fixed_seconds(self) -> float:
        """Return the part of an entry's time that does not grow with its pages, or 0 while entries had one size.

        It is where the line through the fastest entries of the smallest and the largest size meets 0 pages, but no
        more than any entry took: the first ones also allocate memory, and others had to wait for the processor.
        """
        fastest: dict[int, float] = {}
        for pages, seconds in self._entries:
            fastest[pages] = min(seconds, fastest.get(pages, seconds))
        few, many = min(fastest, default=0), max(fastest, default=0)
        if few == many:
            return 0.0
        of_a_page = max(0.0, (fastest[many] - fastest[few]) / (many - few))
        return max(0.0, min(*fastest.values(), fastest[few] - of_a_page * few))
