"""Predictions turned into scores: one record per page and model, one row per model."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from components.evaluate.readers.generation import Transcription
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.scoring.bert_score import BertScorer
from components.evaluate.scoring.metrics import rouge
from components.evaluate.scoring.repetition import is_loop
from components.shared.errors import UserError
from components.shared.reading.transcriber import Prediction
from components.shared.scoring.edit_counts import EditCounts, character_edits, error_rate, word_edits
from components.shared.scoring.statistics import DocumentBootstrap, Interval

ROWS = ("base", "adapter", "champion", "tesseract", "rapidocr")
"""The readers that a report can hold, in its order."""
TRAITS = ("lang", "task", "font", "resolution")
"""What the dataset says of a page that its error rate may depend on."""


@dataclass(frozen=True)
class Label:
    """What a page says, and whence it is; ``traits`` are its language, task, font and resolution, as far as known."""

    key: str
    source_id: str
    page: int
    text: str
    normalised: str
    traits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PageScore:
    """One model's prediction for one page, with its counts over the normalised texts."""

    label: Label
    prediction: Prediction
    normalised: str
    characters: EditCounts
    words: EditCounts
    rouge: dict[str, float]
    loop: bool
    bertscore: float | None = None

    @property
    def exact(self) -> bool:
        return self.prediction.error is None and self.normalised == self.label.normalised


@dataclass(frozen=True)
class ModelScores:
    """All page scores of one model; ``name`` is one of ``ROWS``."""

    name: str
    pages: list[PageScore]
    transcription: Transcription


@dataclass(frozen=True)
class ModelRow:
    """One row of the report; rates are 0 to 1 (CER and WER can exceed 1), BLEU and chrF 0 to 100, times in seconds.

    Intervals are 95 % bootstrap intervals over documents, None with fewer than two documents. BERTScore is None where
    it was not asked for.
    """

    name: str
    pages: int
    documents: int
    cer: float
    cer_interval: Interval | None
    wer: float
    wer_interval: Interval | None
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 (rouge_score's own name)
    rougeL_interval: Interval | None  # noqa: N815
    bleu: float
    chrf: float
    bertscore: float | None
    bertscore_interval: Interval | None
    cer_median: float
    cer_p90: float
    exact_page_rate: float
    failure_rate: float
    loop_rate: float
    truncation_rate: float
    pages_per_second: float
    seconds: float
    batch_size: int
    memory_halvings: int
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def labels_of(pages: EvaluationPages, normalise: Callable[[str], str]) -> list[Label]:
    """Return the labels in the pages' order.

    Raises:
        UserError: no label holds any text, so that no error rate can be given.
    """
    samples = (pages[position] for position in range(len(pages)))
    labels = [
        Label(
            key=sample.key,
            source_id=str(sample.metadata["source_id"]),
            page=int(sample.metadata.get("page", 0)),
            text=sample.text,
            normalised=normalise(sample.text),
            traits={name: str(sample.metadata[name]) for name in TRAITS if sample.metadata.get(name) is not None},
        )
        for sample in samples
    ]
    if not any(label.normalised.strip() for label in labels):
        raise UserError("the pages' labels hold no text", where="dataset_dir", mend="prepare documents with text")
    return labels


def score(
    name: str,
    labels: Sequence[Label],
    transcription: Transcription,
    normalise: Callable[[str], str],
    bert_scorer: BertScorer | None = None,
) -> ModelScores:
    """Score every prediction against its page's label; by BERTScore too where there is a scorer."""
    texts = [normalise(prediction.text) for prediction in transcription.predictions]
    near: Sequence[float | None] = [None] * len(texts)
    if bert_scorer:
        near = bert_scorer.f_measures([label.normalised for label in labels], texts)
    pages = [
        _page_score(label, prediction, text, bertscore)
        for label, prediction, text, bertscore in zip(labels, transcription.predictions, texts, near, strict=True)
    ]
    return ModelScores(name, pages, transcription)


def _page_score(label: Label, prediction: Prediction, normalised: str, bertscore: float | None) -> PageScore:
    return PageScore(
        label=label,
        prediction=prediction,
        normalised=normalised,
        characters=character_edits(label.normalised, normalised),
        words=word_edits(label.normalised, normalised),
        rouge=rouge(label.normalised, normalised),
        loop=is_loop(normalised, label.normalised),
        bertscore=bertscore,
    )


def row_of(scores: ModelScores, bootstrap: DocumentBootstrap) -> ModelRow:
    """Sum a model's page scores up, with intervals."""
    pages, count = scores.pages, len(scores.pages)
    characters, words = [page.characters for page in pages], [page.words for page in pages]
    rouge_l = [page.rouge["rougeL"] for page in pages]
    near = [page.bertscore for page in pages if page.bertscore is not None]
    rates = [counts.rate for counts in characters]
    return ModelRow(
        name=scores.name,
        pages=count,
        documents=bootstrap.documents,
        cer=error_rate(characters),
        cer_interval=bootstrap.interval(edits(characters), lengths(characters)),
        wer=error_rate(words),
        wer_interval=bootstrap.interval(edits(words), lengths(words)),
        **_text_figures(pages),
        rougeL_interval=bootstrap.interval(rouge_l, [1.0] * count),
        bertscore=sum(near) / count if near else None,
        bertscore_interval=bootstrap.interval(near, [1.0] * count) if near else None,
        cer_median=float(np.median(rates)),
        cer_p90=float(np.percentile(rates, 90)),
        exact_page_rate=sum(page.exact for page in pages) / count,
        failure_rate=sum(page.prediction.error is not None for page in pages) / count,
        loop_rate=sum(page.loop for page in pages) / count,
        truncation_rate=sum(page.prediction.truncated for page in pages) / count,
        pages_per_second=count / scores.transcription.seconds,
        seconds=scores.transcription.seconds,
        batch_size=scores.transcription.batch_size,
        memory_halvings=scores.transcription.memory_halvings,
        notes=scores.transcription.notes,
    )


def _text_figures(pages: Sequence[PageScore]) -> dict[str, float]:
    """Return rouge1, rouge2, rougeL, bleu and chrf."""
    from components.evaluate.scoring.metric_module import load_metric  # `evaluate` takes a second to import

    labels, predictions = [page.label.normalised for page in pages], [page.normalised for page in pages]
    figures: dict[str, float] = {}
    for name in ("rouge", "bleu", "chrf"):
        figures |= load_metric(name).compute(predictions=predictions, references=labels)
    return figures


def edits(counts: Sequence[EditCounts]) -> list[float]:
    """Return the edits of each page."""
    return [float(page.edits) for page in counts]


def lengths(counts: Sequence[EditCounts]) -> list[float]:
    """Return the label length of each page."""
    return [float(page.reference_length) for page in counts]
