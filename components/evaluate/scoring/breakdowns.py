"""The error rates of the pages of one language, task, font or resolution."""

from collections.abc import Sequence
from typing import Any

from components.evaluate.scoring.scores import TRAITS, Label, ModelScores, PageScore, edits, lengths
from components.shared.scoring.edit_counts import error_rate
from components.shared.scoring.statistics import DocumentBootstrap

UNKNOWN = "unknown"
"""The value of pages whose metadata do not hold the trait."""


def breakdowns(
    models: Sequence[ModelScores], labels: Sequence[Label], resamples: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return, for each trait, its values with their figures, the value with the most pages first.

    A value's figures are ``pages``, ``documents`` and, by model, ``cer`` and ``wer`` with intervals and the rates of
    exact pages, loops and failures. CER and WER are None where the pages' labels hold no text.
    """
    return {trait: _of_trait(models, labels, trait, resamples, seed) for trait in TRAITS}


def _of_trait(
    models: Sequence[ModelScores], labels: Sequence[Label], trait: str, resamples: int, seed: int
) -> list[dict[str, Any]]:
    positions: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        positions.setdefault(label.traits.get(trait, UNKNOWN), []).append(position)
    return [
        _of_value(models, labels, value, members, resamples, seed)
        for value, members in sorted(positions.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _of_value(
    models: Sequence[ModelScores], labels: Sequence[Label], value: str, members: list[int], resamples: int, seed: int
) -> dict[str, Any]:
    bootstrap = DocumentBootstrap([labels[position].source_id for position in members], resamples, seed)
    return {
        "value": value,
        "pages": len(members),
        "documents": bootstrap.documents,
        "models": {
            scores.name: _figures([scores.pages[position] for position in members], bootstrap) for scores in models
        },
    }


def _figures(pages: Sequence[PageScore], bootstrap: DocumentBootstrap) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, counts in (("cer", [page.characters for page in pages]), ("wer", [page.words for page in pages])):
        has_text = any(page.reference_length for page in counts)
        figures[name] = error_rate(counts) if has_text else None
        figures[f"{name}_interval"] = bootstrap.interval(edits(counts), lengths(counts)) if has_text else None
    return figures | {
        "exact_page_rate": sum(page.exact for page in pages) / len(pages),
        "loop_rate": sum(page.loop for page in pages) / len(pages),
        "failure_rate": sum(page.prediction.error is not None for page in pages) / len(pages),
    }
