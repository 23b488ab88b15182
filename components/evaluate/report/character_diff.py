"""The differences between a label and a prediction, as runs of characters to mark."""

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from rapidfuzz.distance import Levenshtein

RunKind = Literal["same", "missing", "added"]


@dataclass(frozen=True)
class Run:
    """A piece of text: in both (``same``), in the label only (``missing``), in the prediction only (``added``)."""

    kind: RunKind
    text: str


def character_diff(label: str, prediction: str) -> list[Run]:
    """Return the runs of a shortest edit script; a replacement is a missing run followed by an added one.

    >>> [(run.kind, run.text) for run in character_diff("cat sat", "cut sat")]
    [('same', 'c'), ('missing', 'a'), ('added', 'u'), ('same', 't sat')]
    """
    runs: list[Run] = []
    for step in Levenshtein.opcodes(label, prediction):
        before = label[step.src_start : step.src_end]
        after = prediction[step.dest_start : step.dest_end]
        if step.tag == "equal":
            runs.append(Run("same", before))
        else:
            runs += [Run("missing", before), Run("added", after)]
    joined = [Run(kind, "".join(run.text for run in same_kind)) for kind, same_kind in groupby(runs, lambda r: r.kind)]
    return [run for run in joined if run.text]
