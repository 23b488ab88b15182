"""One hostile input: what it tries, how it is made, what reads it, and what must come of it."""

from collections.abc import Callable
from dataclasses import dataclass

LARGEST = 1_000_000
"""Bytes of an input."""


@dataclass(frozen=True)
class HostileInput:
    """A row of the table.

    Attributes:
        kind: what it tries, e.g. "work without end".
        name: a file's name, or words for a text that is no file; unique among those with the same reader.
        how: how it is made, in words.
        made: makes the content.
        expected: what must come of it: ``kept N`` documents, ``dropped REASON``, ``refused`` (a user's error, exit code
            2), ``inert`` (shown as text), ``hidden`` (the secret is not in the text).
    """

    kind: str
    name: str
    how: str
    made: Callable[[], bytes]
    expected: str


def fixed(content: bytes | str) -> Callable[[], bytes]:
    """Return a maker of ``content``."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    return lambda: data
