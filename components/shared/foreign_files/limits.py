"""How much time and memory the reading of a foreign file may take, and the error where that is not enough."""

from dataclasses import dataclass
from typing import Literal

ExceededLimit = Literal["time", "memory", "size", "crash"]


@dataclass(frozen=True)
class ReadingLimits:
    """Limits for one item: a document, a row, the picture of a page.

    Attributes:
        seconds: CPU time of the child. A child that waits (for a network's file system) may take twenty times as long.
        seconds_per_part: added for each part that the child reports (``part_read``), e.g. a page.
        memory_bytes: what the child may take in addition to what it has at its start.
        item_bytes: the largest item, pickled, that is taken from the child.
        message_bytes: how much of what libraries print is kept for the log; the rest is thrown away.
    """

    seconds: float = 60.0
    seconds_per_part: float = 1.0
    memory_bytes: int = 2 * 2**30
    item_bytes: int = 512 * 2**20
    message_bytes: int = 2000

    def memory_problem(self) -> str:
        """Return what to say of a file that takes too much memory."""
        return f"reading it takes more than {self.memory_bytes / 2**30:.3g} GiB of memory"

    def time_problem(self, seconds: float) -> str:
        """Return what to say of a file that takes too much time; ``seconds`` is what it was given."""
        return f"reading it takes more than {seconds:.3g} seconds"


class LimitExceededError(Exception):
    """A foreign file took more than a limit allows, or ended the process that read it.

    Attributes:
        limit: which one; ``crash``: a library's fault, or memory that a library did not get.
        problem: what to say of the file.
    """

    def __init__(self, limit: ExceededLimit, problem: str) -> None:
        super().__init__(problem)
        self.limit = limit
        self.problem = problem

    def __reduce__(self) -> tuple[type["LimitExceededError"], tuple[ExceededLimit, str]]:
        return type(self), (self.limit, self.problem)
