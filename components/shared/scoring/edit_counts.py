"""Edits between a label and a prediction, in characters and words, and the rates that follow from them: CER and WER."""

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class EditCounts:
    """The Levenshtein distance of a page, and the length of its label.

    Attributes:
        edits: substitutions + deletions + insertions.
        reference_length: units (characters or words) in the label.
    """

    edits: int
    reference_length: int

    @property
    def rate(self) -> float:
        """edits / reference_length; for an empty label 0 where the prediction is empty too, else 1.

        >>> EditCounts(edits=1, reference_length=4).rate, EditCounts(edits=7, reference_length=0).rate
        (0.25, 1.0)
        """
        if self.reference_length == 0:
            return float(self.edits > 0)
        return self.edits / self.reference_length


def character_edits(label: str, prediction: str) -> EditCounts:
    """Return the page's edits over Unicode code points (rapidfuzz: jiwer's figures in a tenth of its time).

    >>> character_edits("kitten", "sitting")
    EditCounts(edits=3, reference_length=6)
    >>> character_edits("", "ab"), character_edits("ab", "")
    (EditCounts(edits=2, reference_length=0), EditCounts(edits=2, reference_length=2))
    """
    return EditCounts(Levenshtein.distance(label, prediction), len(label))


def word_edits(label: str, prediction: str) -> EditCounts:
    """Return the page's edits over words, i.e. runs of non-space characters.

    >>> word_edits("the cat sat", "the cat\\nsat down")
    EditCounts(edits=1, reference_length=3)
    """
    words = label.split()
    return EditCounts(Levenshtein.distance(words, prediction.split()), len(words))


def error_rate(pages: Sequence[EditCounts]) -> float:
    """Return the corpus rate: the sum of the edits over the sum of the label lengths (micro average).

    With characters this is the CER, with words the WER. It exceeds 1 where the predictions are longer than the
    labels and wrong.

    Raises:
        ValueError: all labels are empty, so there is no rate.

    >>> error_rate([EditCounts(1, 10), EditCounts(5, 30)])
    0.15
    """
    reference_length = sum(page.reference_length for page in pages)
    if reference_length == 0:
        raise ValueError("the labels hold no text, so there is no error rate")
    return sum(page.edits for page in pages) / reference_length
