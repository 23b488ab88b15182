"""The figures by source, folder, language, script, task, font and resolution."""

from collections.abc import Sequence

from components.evaluate.scoring.scores import TRAITS, Label, ModelScores, PageScore, edits, lengths
from components.shared.artifacts.evaluation_report import BreakdownFigures, BreakdownValue, Trait
from components.shared.scoring.edit_counts import EditCounts, error_rate
from components.shared.scoring.paired_comparison import Interval
from components.shared.scoring.statistics import DocumentBootstrap

UNKNOWN = "unknown"
"""The value of pages whose metadata lack the trait."""


def breakdowns(
    models: Sequence[ModelScores], labels: Sequence[Label], resamples: int, seed: int
) -> dict[Trait, list[BreakdownValue]]:
    """Return, for each trait, its values with their figures, the value with the most pages first."""
    return {trait: _of_trait(models, labels, trait, resamples, seed) for trait in TRAITS}


def _of_trait(
    models: Sequence[ModelScores], labels: Sequence[Label], trait: Trait, resamples: int, seed: int
) -> list[BreakdownValue]:
    positions: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        positions.setdefault(label.traits.get(trait, UNKNOWN), []).append(position)
    return [
        _of_value(models, labels, value, members, resamples, seed)
        for value, members in sorted(positions.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _of_value(
    models: Sequence[ModelScores], labels: Sequence[Label], value: str, members: list[int], resamples: int, seed: int
) -> BreakdownValue:
    bootstrap = DocumentBootstrap([labels[position].source_id for position in members], resamples, seed)
    return BreakdownValue(
        value=value,
        pages=len(members),
        documents=bootstrap.documents,
        models={
            scores.name: _figures([scores.pages[position] for position in members], bootstrap) for scores in models
        },
    )


def _figures(pages: Sequence[PageScore], bootstrap: DocumentBootstrap) -> BreakdownFigures:
    cer, cer_interval = _rate([page.characters for page in pages], bootstrap)
    wer, wer_interval = _rate([page.words for page in pages], bootstrap)
    return BreakdownFigures(
        cer=cer,
        cer_interval=cer_interval,
        wer=wer,
        wer_interval=wer_interval,
        exact_page_rate=sum(page.exact for page in pages) / len(pages),
        loop_rate=sum(page.loop for page in pages) / len(pages),
        failure_rate=sum(page.prediction.error is not None for page in pages) / len(pages),
    )


def _rate(counts: Sequence[EditCounts], bootstrap: DocumentBootstrap) -> tuple[float | None, Interval | None]:
    """Return the error rate and its interval; None for both where the labels hold no text."""
    if not any(page.reference_length for page in counts):
        return None, None
    return error_rate(counts), bootstrap.interval(edits(counts), lengths(counts))
