"""Predictions turned into scores: one record per page and model, one row per model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from components.evaluate.readers.generation import Transcription
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.scoring.bert_score import BertScorer
from components.evaluate.scoring.metrics import ROUGE_TYPES, bleu, chrf, rouge
from components.evaluate.scoring.traits import traits_of
from components.shared.artifacts.evaluation_report import CANDIDATE, ReportRow, RowName, Trait
from components.shared.errors import UserError
from components.shared.reading.transcriber import Prediction
from components.shared.scoring.edit_counts import EditCounts, character_edits, error_rate, word_edits
from components.shared.scoring.repetition import is_loop
from components.shared.scoring.statistics import DocumentBootstrap

ROWS: tuple[RowName, ...] = get_args(RowName)
"""The rows that a report can have, in its order."""
TRAITS: tuple[Trait, ...] = get_args(Trait)
"""The properties of a page by which the figures are broken down."""


@dataclass(frozen=True)
class Label:
    """A page's label and origin; ``traits`` are its language, font and so on, as far as known."""

    key: str
    source_id: str
    page: int
    text: str
    normalised: str
    traits: dict[Trait, str] = field(default_factory=dict)


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
    """All page scores of one model."""

    name: RowName
    pages: list[PageScore]
    transcription: Transcription


def judged(models: Sequence[ModelScores]) -> ModelScores:
    """Return the scores of the adapter, or of the first model if it is not there."""
    return next((scores for scores in models if scores.name == CANDIDATE), models[0])


def labels_of(pages: EvaluationPages, normalise: Callable[[str], str]) -> list[Label]:
    """Return the labels in the pages' order.

    Raises:
        UserError: no label holds any text, so there is no error rate.
    """
    samples = (pages[position] for position in range(len(pages)))
    labels = [
        Label(
            key=sample.key,
            source_id=str(sample.metadata["source_id"]),
            page=int(sample.metadata.get("page", 0)),
            text=sample.text,
            normalised=normalise(sample.text),
            traits=traits_of(sample.metadata, sample.text),
        )
        for sample in samples
    ]
    if not any(label.normalised.strip() for label in labels):
        raise UserError("the pages' labels hold no text", where="dataset_dir", mend="prepare documents with text")
    return labels


def score(
    name: RowName,
    labels: Sequence[Label],
    transcription: Transcription,
    normalise: Callable[[str], str],
    bert_scorer: BertScorer | None = None,
) -> ModelScores:
    """Score every prediction against its page's label, with BERTScore too if there is a scorer."""
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


def row_of(scores: ModelScores, bootstrap: DocumentBootstrap) -> ReportRow:
    """Return a model's figures over all pages, with intervals."""
    pages, count = scores.pages, len(scores.pages)
    characters, words = [page.characters for page in pages], [page.words for page in pages]
    rouge_l = [page.rouge["rougeL"] for page in pages]
    near = [page.bertscore for page in pages if page.bertscore is not None]
    rates = [counts.rate for counts in characters]
    return ReportRow(
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
    labels, predictions = [page.label.normalised for page in pages], [page.normalised for page in pages]
    means = {name: sum(page.rouge[name] for page in pages) / len(pages) for name in ROUGE_TYPES}
    return {**means, "bleu": bleu(labels, predictions)[0], "chrf": chrf(labels, predictions)[0]}


def edits(counts: Sequence[EditCounts]) -> list[float]:
    """Return the edits of each page."""
    return [float(page.edits) for page in counts]


def lengths(counts: Sequence[EditCounts]) -> list[float]:
    """Return the label length of each page."""
    return [float(page.reference_length) for page in counts]
