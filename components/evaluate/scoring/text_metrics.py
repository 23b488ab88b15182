"""The metrics of a set of pages, each fed page by page (``update``) and asked at the end (``summary``).

All take texts as they are: normalise them first. A prediction of None is a page that failed; to all but the failure
rate it is the empty text. ``metric_module.py`` puts them behind Hugging Face's ``evaluate``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.evaluate.scoring.bert_score import BertScorer
from components.evaluate.scoring.metrics import ROUGE_TYPES, bleu, chrf, rouge
from components.evaluate.scoring.repetition import is_loop
from components.shared.scoring.edit_counts import EditCounts, character_edits, error_rate, word_edits


class TextMetric(ABC):
    """A figure, or several, over pages of label and prediction."""

    @abstractmethod
    def update(self, label: str, prediction: str | None) -> None:
        """Take one more page."""

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """Return the figures over all pages so far.

        Raises:
            ValueError: there are no pages, or none with a text where the figure needs one.
        """


class _ErrorRate(TextMetric):
    def __init__(self, name: str, edits: Callable[[str, str], EditCounts]) -> None:
        self._name = name
        self._edits = edits
        self._pages: list[EditCounts] = []

    def update(self, label: str, prediction: str | None) -> None:
        self._pages.append(self._edits(label, prediction or ""))

    def summary(self) -> dict[str, float]:
        return {self._name: error_rate(self._pages)}


class CharacterErrorRate(_ErrorRate):
    """CER = sum of substitutions, deletions and insertions of code points / sum of the labels' code points.

    >>> metric = CharacterErrorRate()
    >>> metric.update("four", "foul"); metric.update("sixteen", "sixteen")
    >>> round(metric.summary()["cer"], 4)
    0.0909
    """

    def __init__(self) -> None:
        super().__init__("cer", character_edits)


class WordErrorRate(_ErrorRate):
    """WER = sum of substitutions, deletions and insertions of words / sum of the labels' words.

    >>> metric = WordErrorRate()
    >>> metric.update("the cat sat", "the cat")
    >>> round(metric.summary()["wer"], 4)
    0.3333
    """

    def __init__(self) -> None:
        super().__init__("wer", word_edits)


class Rouge(TextMetric):
    """ROUGE-1, ROUGE-2 and ROUGE-L: the mean of the pages' F = 2PR / (P + R), see ``metrics.rouge``.

    >>> metric = Rouge()
    >>> metric.update("the cat sat", "the cat lay"); metric.update("a b", "a b")
    >>> {name: round(value, 3) for name, value in metric.summary().items()}
    {'rouge1': 0.833, 'rouge2': 0.75, 'rougeL': 0.833}
    """

    def __init__(self) -> None:
        self._pages: list[dict[str, float]] = []

    def update(self, label: str, prediction: str | None) -> None:
        self._pages.append(rouge(label, prediction or ""))

    def summary(self) -> dict[str, float]:
        _require_pages(len(self._pages))
        return {name: sum(page[name] for page in self._pages) / len(self._pages) for name in ROUGE_TYPES}


class _CorpusScore(TextMetric):
    def __init__(self, name: str, score: Callable[[list[str], list[str]], tuple[float, str]]) -> None:
        self._name = name
        self._score = score
        self._labels: list[str] = []
        self._predictions: list[str] = []

    def update(self, label: str, prediction: str | None) -> None:
        self._labels.append(label)
        self._predictions.append(prediction or "")

    def summary(self) -> dict[str, float]:
        _require_pages(len(self._labels))
        return {self._name: self._score(self._labels, self._predictions)[0]}


class Bleu(_CorpusScore):
    """BLEU = BP exp(mean of log p_n, n = 1 to 4) over the corpus, 0 to 100, see ``metrics.bleu``.

    >>> metric = Bleu()
    >>> metric.update("the cat sat on the mat", "the cat sat on a mat")
    >>> round(metric.summary()["bleu"], 2)
    53.73
    """

    def __init__(self) -> None:
        super().__init__("bleu", bleu)


class Chrf(_CorpusScore):
    """chrF2 = (1 + 2²) P R / (2² P + R) over character n-grams, 0 to 100, see ``metrics.chrf``.

    >>> metric = Chrf()
    >>> metric.update("the cat sat", "the cat sat")
    >>> round(metric.summary()["chrf"], 6)
    100.0
    """

    def __init__(self) -> None:
        super().__init__("chrf", chrf)


class _Share(TextMetric):
    def __init__(self, name: str, holds: Callable[[str, str | None], bool]) -> None:
        self._name = name
        self._holds = holds
        self._pages = 0
        self._held = 0

    def update(self, label: str, prediction: str | None) -> None:
        self._pages += 1
        self._held += self._holds(label, prediction)

    def summary(self) -> dict[str, float]:
        _require_pages(self._pages)
        return {self._name: self._held / self._pages}


class ExactPageRate(_Share):
    """Pages whose prediction equals the label / pages.

    >>> metric = ExactPageRate()
    >>> metric.update("same", "same"); metric.update("same", "other")
    >>> metric.summary()
    {'exact_page_rate': 0.5}
    """

    def __init__(self) -> None:
        super().__init__("exact_page_rate", lambda label, prediction: label == prediction)


class LoopRate(_Share):
    """Pages whose prediction ends in a repetition that the label does not end in / pages, see ``repetition.is_loop``.

    >>> metric = LoopRate()
    >>> metric.update("Contents", "Contents" + " so" * 20); metric.update("word", "word")
    >>> metric.summary()
    {'loop_rate': 0.5}
    """

    def __init__(self) -> None:
        super().__init__("loop_rate", lambda label, prediction: is_loop(prediction or "", label))


class FailureRate(_Share):
    """Pages that failed, so that there is no prediction / pages.

    >>> metric = FailureRate()
    >>> metric.update("read", ""); metric.update("not read", None)
    >>> metric.summary()
    {'failure_rate': 0.5}
    """

    def __init__(self) -> None:
        super().__init__("failure_rate", lambda label, prediction: prediction is None)


class BertScore(TextMetric):
    """BERTScore: the mean of the pages' F = 2PR / (P + R) over cosines of token vectors, see ``bert_score.py``.

    ``model`` is the folder of an encoder, ``layer`` the one whose hidden states are compared.

    >>> BertScore("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    components.shared.errors.UserError: bertscore_model 'no/such/folder': no such folder; ...
    """

    def __init__(self, model: str | Path, layer: int | None = None) -> None:
        self._scorer = BertScorer(Path(model), layer)
        self._pages: list[tuple[str, str]] = []

    def update(self, label: str, prediction: str | None) -> None:
        self._pages.append((label, prediction or ""))

    def summary(self) -> dict[str, float]:
        _require_pages(len(self._pages))
        figures = self._scorer.f_measures(*zip(*self._pages, strict=True))
        return {"bertscore": sum(figures) / len(figures)}


def _require_pages(pages: int) -> None:
    if not pages:
        raise ValueError("no pages were given, so there is no figure")


METRICS: dict[str, Callable[..., Any]] = {
    "cer": CharacterErrorRate,
    "wer": WordErrorRate,
    "rouge": Rouge,
    "bleu": Bleu,
    "chrf": Chrf,
    "exact_page_rate": ExactPageRate,
    "failure_rate": FailureRate,
    "loop_rate": LoopRate,
    "bertscore": BertScore,
}
"""By the name that ``metric_module.load_metric`` takes."""
