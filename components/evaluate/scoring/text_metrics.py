"""The metrics of a set of pages, as functions of labels and predictions; ``metric_module.py`` puts them behind
Hugging Face's ``evaluate``.

All take texts as they are: normalise them first. A prediction of None is a page that failed; all metrics but the
failure rate count it as the empty text. They raise ``ValueError`` if there are no pages, or none with a text where the
figure needs one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from components.evaluate.scoring import metrics
from components.evaluate.scoring.bert_score import BertScorer
from components.shared.scoring.edit_counts import character_edits, error_rate, word_edits
from components.shared.scoring.repetition import is_loop

Labels = Sequence[str]
Predictions = Sequence[str | None]
Pages = list[tuple[str, str | None]]


def cer(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """CER = sum of substitutions, deletions and insertions of code points / sum of the labels' code points.

    >>> round(cer(["four", "sixteen"], ["foul", "sixteen"])["cer"], 4)
    0.0909
    """
    return {"cer": error_rate([character_edits(label, text or "") for label, text in _pages(labels, predictions)])}


def wer(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """WER = sum of substitutions, deletions and insertions of words / sum of the labels' words.

    >>> round(wer(["the cat sat"], ["the cat"])["wer"], 4)
    0.3333
    """
    return {"wer": error_rate([word_edits(label, text or "") for label, text in _pages(labels, predictions)])}


def rouge(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L: the mean of the pages' F = 2PR / (P + R), see ``metrics.rouge``.

    >>> {name: round(value, 3) for name, value in rouge(["the cat sat", "a b"], ["the cat lay", "a b"]).items()}
    {'rouge1': 0.833, 'rouge2': 0.75, 'rougeL': 0.833}
    """
    pages = [metrics.rouge(label, text or "") for label, text in _pages(labels, predictions)]
    return {name: sum(page[name] for page in pages) / len(pages) for name in metrics.ROUGE_TYPES}


def bleu(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """BLEU = BP exp(mean of log p_n, n = 1 to 4) over the corpus, 0 to 100, see ``metrics.bleu``.

    >>> round(bleu(["the cat sat on the mat"], ["the cat sat on a mat"])["bleu"], 2)
    53.73
    """
    pages = _pages(labels, predictions)
    return {"bleu": metrics.bleu(labels, [text or "" for _, text in pages])[0]}


def chrf(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """chrF2 = (1 + 2²) P R / (2² P + R) over character n-grams, 0 to 100, see ``metrics.chrf``.

    >>> round(chrf(["the cat sat"], ["the cat sat"])["chrf"], 6)
    100.0
    """
    pages = _pages(labels, predictions)
    return {"chrf": metrics.chrf(labels, [text or "" for _, text in pages])[0]}


def exact_page_rate(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """Pages whose prediction equals the label / pages.

    >>> exact_page_rate(["same", "same"], ["same", "other"])
    {'exact_page_rate': 0.5}
    """
    return {"exact_page_rate": _share(_pages(labels, predictions), lambda label, text: label == text)}


def failure_rate(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """Pages that failed, so that they have no prediction / pages.

    >>> failure_rate(["read", "not read"], ["", None])
    {'failure_rate': 0.5}
    """
    return {"failure_rate": _share(_pages(labels, predictions), lambda _, text: text is None)}


def loop_rate(labels: Labels, predictions: Predictions) -> dict[str, float]:
    """Pages whose prediction ends in a repetition that the label does not end in / pages, see ``repetition.is_loop``.

    >>> loop_rate(["Contents", "word"], ["Contents" + " so" * 20, "word"])
    {'loop_rate': 0.5}
    """
    return {"loop_rate": _share(_pages(labels, predictions), lambda label, text: is_loop(text or "", label))}


def bertscore(
    labels: Labels, predictions: Predictions, model: str | Path, layer: int | None = None
) -> dict[str, float]:
    """BERTScore: the mean of the pages' F = 2PR / (P + R) over cosines of token vectors, see ``bert_score.py``.

    ``model`` is the folder of an encoder, ``layer`` the one whose hidden states are compared.

    >>> bertscore(["a"], ["a"], "no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    components.shared.errors.UserError: bertscore_model 'no/such/folder': no such folder; ...
    """
    texts = [text or "" for _, text in _pages(labels, predictions)]
    figures = BertScorer(Path(model), layer).f_measures(labels, texts)
    return {"bertscore": sum(figures) / len(figures)}


def _pages(labels: Labels, predictions: Predictions) -> Pages:
    pages = list(zip(labels, predictions, strict=True))
    if not pages:
        raise ValueError("no pages were given, so there is no figure")
    return pages


def _share(pages: Pages, holds: Callable[[str, str | None], bool]) -> float:
    return sum(holds(label, text) for label, text in pages) / len(pages)


METRICS: dict[str, Callable[..., dict[str, float]]] = {
    metric.__name__: metric
    for metric in (cer, wer, rouge, bleu, chrf, exact_page_rate, failure_rate, loop_rate, bertscore)
}
"""By the name that ``metric_module.load_metric`` takes."""
