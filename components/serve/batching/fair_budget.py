"""What clients share, such as places in the queue: one client alone never uses all of it."""

import threading
from collections import Counter


class FairBudget:
    """An amount that clients take and give back; every method may be called from any thread.

    A client may hold as much as is still free after it took: half of the whole while no other client holds any, a third
    when two want as much as they get, and so on. So there is always room for one more client, without a part that is
    set aside for clients who may never come, and without taking anything away from one who has it. (The dynamic
    thresholds of A. Choudhury and E. Hahne, IEEE/ACM Transactions on Networking 6(2), 1998, with the factor 1.)

    Args:
        of_one_client: the most that a client may hold; all together may hold twice as much.
    """

    def __init__(self, of_one_client: int) -> None:
        self._whole = 2 * of_one_client
        self._used = 0
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, client: str, amount: int) -> bool:
        """Take an amount, all or nothing; return whether there was room."""
        with self._lock:
            free = self._whole - self._used - amount
            if self._held[client] + amount > free:
                return False
            self._used += amount
            self._held[client] += amount
            return True

    def give_back(self, client: str, amount: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._used -= amount
            self._held[client] -= amount
            if not self._held[client]:
                del self._held[client]  # else each client that ever came would stay
