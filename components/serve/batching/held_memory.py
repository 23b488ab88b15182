"""What requests hold in memory: bytes of bodies until their files are opened, pixels of pages until the answer."""

import threading

from components.serve.batching.fair_budget import FairBudget


class MemoryFullError(Exception):
    """The client's requests, or all clients', hold as much as they may."""


class HeldMemory:
    """The service's budgets; see ``FairBudget`` for how clients share them.

    Args:
        max_bytes: of one client's request bodies.
        max_pixels: of one client's opened pages, 3 bytes each.
    """

    def __init__(self, max_bytes: int, max_pixels: int) -> None:
        self._bytes, self._pixels = FairBudget(max_bytes), FairBudget(max_pixels)

    def of_request(self, client: str) -> "Holding":
        """Return what a request of ``client`` holds: nothing yet."""
        return Holding(client, self._bytes, self._pixels)


class Holding:
    """What one request holds; every method may be called from any thread.

    Args:
        client: whose request it is.
        total_bytes, total_pixels: what it takes from.
    """

    def __init__(self, client: str, total_bytes: FairBudget, total_pixels: FairBudget) -> None:
        self._client = client
        self._budgets = {"bytes": total_bytes, "pixels": total_pixels}
        self._held = dict.fromkeys(self._budgets, 0)
        self._ended = False
        self._lock = threading.Lock()

    def take_bytes(self, amount: int) -> None:
        """Take bytes of the body; none are always there, also where the client holds more than it could take now.

        Raises:
            MemoryFullError: there is no room for them.
        """
        if amount:
            self._take("bytes", amount)

    def take_pixels(self, amount: int) -> None:
        """Take pixels of an opened page; none asks whether a client has any room left.

        Raises:
            MemoryFullError: there is no room for them, or the request has ended.
        """
        self._take("pixels", amount)

    def give_back_bytes(self) -> None:
        """Say that nothing holds the body any more."""
        with self._lock:
            self._give_back("bytes")

    def end(self) -> None:
        """Give everything back; the request takes nothing afterwards."""
        with self._lock:
            self._ended = True
            for kind in self._budgets:
                self._give_back(kind)

    def _take(self, kind: str, amount: int) -> None:
        with self._lock:
            if self._ended or not self._budgets[kind].take(self._client, amount):
                raise MemoryFullError
            self._held[kind] += amount

    def _give_back(self, kind: str) -> None:
        self._budgets[kind].give_back(self._client, self._held[kind])
        self._held[kind] = 0
