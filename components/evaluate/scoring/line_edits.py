"""Which of a page's edits belong to which line of the reading.

A line is what stands between two line breaks of the model's answer. The whole reading is aligned with the whole label
by their edits (Levenshtein), so a line that is broken elsewhere than the label's is compared with the label's text
that it stands for.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from rapidfuzz.distance import Levenshtein

from components.shared.scoring.edit_counts import EditCounts

_BREAK = -1  # the line of the characters between two lines


def line_edits(label: str, lines: Sequence[str], normalise: Callable[[str], str]) -> list[EditCounts | None]:
    """Return for each line of a reading its edits, and how many characters of the label it stands for.

    None for a line without text after normalisation. Text of the label that is missing between two lines belongs to
    the line that has another part of the same line of the label; a line of the label that is missing as a whole
    belongs to no line of the reading, and counts for the page only.

    Args:
        label: the page's label, not normalised.
        lines: of the reading, not normalised.
        normalise: applied to each line of both.

    >>> line_edits("one line\\nlost\\nthe last", ["one lime", "the last"], str)
    [EditCounts(edits=1, reference_length=8), EditCounts(edits=0, reference_length=8)]
    """
    between = normalise("a\nb")[1:-1]  # a space, where normalisation makes one of white space
    wanted, wanted_line = _numbered(label.split("\n"), normalise, between)
    read, read_line = _numbered(lines, normalise, between)
    edits, lengths = Counter[int](), Counter[int]()
    known: defaultdict[int, set[int]] = defaultdict(set)  # the label's lines of which a line has something
    missing: list[tuple[range, int]] = []
    for operation in Levenshtein.opcodes(wanted, read):
        if operation.tag == "delete":
            missing.append((range(operation.src_start, operation.src_end), operation.dest_start))
            continue
        for place in range(operation.dest_start, operation.dest_end):
            line = read_line[place]
            edits[line] += operation.tag != "equal"
            lengths[line] += operation.tag != "insert"
            if operation.tag == "equal":
                known[line].add(wanted_line[operation.src_start + place - operation.dest_start])
    for places, before in missing:
        behind = read_line[before : before + 2]
        around = dict.fromkeys([*_nearest(reversed(read_line[max(0, before - 2) : before])), *_nearest(behind)])
        inside = len(around) == 1 and 0 < before < len(read)
        for place in places:
            owners = [line for line in around if inside or wanted_line[place] in known[line] - {_BREAK}]
            edits.update(owners[:1])
            lengths.update(owners[:1])
    there = set(read_line)
    return [EditCounts(edits[line], lengths[line]) if line in there else None for line in range(len(lines))]


def _nearest(lines: Iterable[int]) -> list[int]:
    """Return the first line's number that is none of a line break's, if there is one."""
    return [line for line in lines if line != _BREAK][:1]


def _numbered(lines: Sequence[str], normalise: Callable[[str], str], between: str) -> tuple[str, list[int]]:
    """Return the normalised lines as one text, and for each of its characters the number of its line, or ``_BREAK``."""
    text, numbers = "", list[int]()
    for number, line in enumerate(lines):
        if part := normalise(line):
            if text:
                text += between
                numbers += [_BREAK] * len(between)
            text += part
            numbers += [number] * len(part)
    return text, numbers
