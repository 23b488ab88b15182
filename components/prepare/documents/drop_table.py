"""Counts what is left out of a dataset, with the first names for each reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from components.prepare.documents.drop_reasons import DropReason

MOST_NAMES = 10
"""Names that are kept for each reason; the count tells how many there are."""
_NAMES_IN_A_MESSAGE = 3
_LONGEST_NAME = 200


@dataclass
class DropTable:
    """What is left out.

    Attributes:
        counts: reason -> how many.
        names: reason -> ids of the first ``MOST_NAMES`` of them, in the order of the source.
        kinds: suffix -> how many files of a kind that is not read.
    """

    counts: Counter[DropReason] = field(default_factory=Counter)
    names: dict[DropReason, list[str]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    def wants_name(self, reason: DropReason) -> bool:
        """Return whether fewer than ``MOST_NAMES`` names of ``reason`` are known."""
        return len(self.names.get(reason, ())) < MOST_NAMES

    def add(self, reason: DropReason, name: str | None = None, kind: str = "", count: int = 1) -> None:
        """Count one more for ``reason``, or ``count`` more that have one name."""
        self.counts[reason] += count
        if kind:
            self.kinds[kind] += count
        if name is not None and self.wants_name(reason):
            self.names.setdefault(reason, []).append(_short(name))

    def update(
        self, counts: Mapping[DropReason, int], names: Mapping[DropReason, list[str]], kinds: Mapping[str, int]
    ) -> None:
        """Add what another table counted behind this one."""
        self.counts.update(counts)
        self.kinds.update(kinds)
        for reason, more in names.items():
            known = self.names.setdefault(reason, [])
            known += more[: MOST_NAMES - len(known)]

    def __bool__(self) -> bool:
        return any(self.counts.values())

    def __str__(self) -> str:
        """Return all reasons with their counts and up to three names, for messages."""
        return "; ".join(self._told(reason, count) for reason, count in sorted(self.counts.items()) if count)

    def _told(self, reason: DropReason, count: int) -> str:
        names = self.names.get(reason, [])[:_NAMES_IN_A_MESSAGE]
        more = ", …" if names and count > len(names) else ""
        return f"{reason}: {count}" + (f" ({', '.join(names)}{more})" if names else "")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"
