"""Repetition loops: a model that does not stop repeats the same characters, words or lines."""

LOOP_DEFINITION = "loop-v2"
LONGEST_UNIT = 400
SHORTEST_TAIL = 30
FEWEST_REPEATS = 4


def is_loop(prediction: str, label: str) -> bool:
    """Return whether a prediction ends in a repetition that its label does not end in (definition ``loop-v2``).

    Both texts must be normalised. A text ends in a repetition if its tail repeats a unit of 1 to 400 characters, is at
    least 30 characters long and contains the unit at least 4 times; the tail may begin or end inside the unit. It is
    not a loop if the label itself ends in a repetition of the same unit, such as the dots of a table of contents.

    >>> is_loop("Chapter one" + " the end" * 5, "Chapter one the end")
    True
    >>> is_loop("Contents" + "." * 40, "Contents" + "." * 35)
    False
    """
    unit = repeated_unit(prediction)
    if unit is None:
        return False
    label_unit = repeated_unit(label)
    # The tail may end anywhere, so the same unit can appear rotated: "abc" as "bca".
    return label_unit is None or len(label_unit) != len(unit) or label_unit not in unit * 2


def repeated_unit(text: str) -> str | None:
    """Return the shortest unit that the end of ``text`` repeats, by the definition ``loop-v2``; else None.

    >>> repeated_unit("so " + "ha" * 20)
    'ha'
    """
    for length in range(1, min(LONGEST_UNIT, len(text) // FEWEST_REPEATS) + 1):
        if _periodic_tail(text, length) >= max(SHORTEST_TAIL, FEWEST_REPEATS * length):
            return text[-length:]
    return None


def _periodic_tail(text: str, period: int) -> int:
    """Return the length of the longest end of ``text`` in which each character equals the one ``period`` before."""
    start = len(text) - period
    while start > 0 and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return len(text) - start
