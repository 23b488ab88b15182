"""Scores of one page and of a whole set of pages; each function's docstring has the formula.

All functions take normalised texts. A page without a prediction, empty or failed, is scored as the empty text: every
character of its label is then a deletion.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from rapidfuzz.distance import LCSseq

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


def rouge(label: str, prediction: str) -> dict[str, float]:
    """Return the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L of a page, each 0 to 1.

    F = 2PR / (P + R), where for ROUGE-n P and R are the shares of the prediction's and the label's n-grams that
    both share, and for ROUGE-L those of their longest common subsequence (Lin, 2004,
    https://aclanthology.org/W04-1013), over ``unicode_words``. The figures equal rouge_score's; rapidfuzz computes the
    subsequence. If one side has no words, the score is 0; two equal texts without words score 1.

    >>> scores = rouge("the cat sat", "the cat lay")
    >>> round(scores["rouge1"], 3), scores["rouge2"], round(scores["rougeL"], 3)
    (0.667, 0.5, 0.667)
    """
    expected, found = unicode_words(label), unicode_words(prediction)
    if not expected and not found:
        return dict.fromkeys(ROUGE_TYPES, float(label == prediction))
    return {
        "rouge1": _overlap(Counter(expected), Counter(found)),
        "rouge2": _overlap(Counter(pairwise(expected)), Counter(pairwise(found))),
        "rougeL": _f_measure(LCSseq.similarity(expected, found), len(expected), len(found)),
    }


def _overlap(expected: Counter[Any], found: Counter[Any]) -> float:
    return _f_measure((expected & found).total(), expected.total(), found.total())


def _f_measure(shared: int, expected: int, found: int) -> float:
    """Return 2PR / (P + R) with P = shared / found and R = shared / expected; 0 where nothing is shared."""
    return 2 * shared / (expected + found) if shared else 0.0


def unicode_words(text: str) -> list[str]:
    """Return the casefolded runs of letters, marks and digits; each ideograph, kana or Hangul syllable alone.

    rouge_score's own tokenizer only knows a to z: it finds no words on a page in Greek.

    >>> unicode_words("L'été, 2026: 漢字")
    ['l', 'été', '2026', '漢', '字']
    """
    words: list[str] = []
    open_word = False
    for character in text.casefold():
        if unicodedata.category(character)[0] not in "LMN":
            open_word = False
        elif _stands_alone(character):
            words.append(character)
            open_word = False
        elif open_word:
            words[-1] += character
        else:
            words.append(character)
            open_word = True
    return words


@cache
def _stands_alone(character: str) -> bool:
    name = unicodedata.name(character, "")
    return name.startswith(("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "HANGUL SYLLABLE"))


def bleu(labels: Sequence[str], predictions: Sequence[str]) -> tuple[float, str]:
    """Return the corpus BLEU, 0 to 100, and sacrebleu's signature of how it was computed.

    BP * exp(mean of log p_n, n = 1 to 4), each page one segment (Papineni et al., 2002,
    https://aclanthology.org/P02-1040), with sacrebleu's 13a tokenizer, which does not split Chinese or Japanese: use
    chrF there.

    >>> round(bleu(["the cat sat on the mat"], ["the cat sat on the mat"])[0], 6)
    100.0
    """
    from sacrebleu.metrics import BLEU

    # force: no warning about texts that look tokenised, as pages of code do.
    metric = BLEU(force=True)
    score = metric.corpus_score(list(predictions), [list(labels)]).score
    return score, str(metric.get_signature())


def chrf(labels: Sequence[str], predictions: Sequence[str]) -> tuple[float, str]:
    """Return the corpus chrF2, 0 to 100, and sacrebleu's signature of how it was computed.

    (1 + 2²) P R / (2² P + R) over the character n-grams, n = 1 to 6 (Popović, 2015,
    https://aclanthology.org/W15-3049).

    >>> round(chrf(["the cat sat"], ["the cat sat"])[0], 6)
    100.0
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    score = metric.corpus_score(list(predictions), [list(labels)]).score
    return score, str(metric.get_signature())
