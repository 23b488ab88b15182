"""The adapter against every other row, over the same pages."""

from collections.abc import Sequence

from components.evaluate.scoring.scores import ModelScores, edits, lengths
from components.shared.artifacts.evaluation_report import CANDIDATE, RowComparison
from components.shared.scoring.sign_test import sign_test
from components.shared.scoring.statistics import DocumentBootstrap


def comparisons(models: Sequence[ModelScores], bootstrap: DocumentBootstrap) -> list[RowComparison]:
    """Return one comparison of the adapter's CER with each other row's; none without an adapter."""
    candidate = next((scores for scores in models if scores.name == CANDIDATE), None)
    if candidate is None:
        return []
    return [_comparison(other, candidate, bootstrap) for other in models if other is not candidate]


def _comparison(reference: ModelScores, candidate: ModelScores, bootstrap: DocumentBootstrap) -> RowComparison:
    theirs, mine = [edits([page.characters for page in scores.pages]) for scores in (reference, candidate)]
    return RowComparison(
        against=reference.name,
        cer=bootstrap.compare(theirs, mine, lengths([page.characters for page in candidate.pages])),
        sign_test=sign_test(mine, theirs),
    )
