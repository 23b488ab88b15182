"""The adapter against every other row, over the same pages."""

from collections.abc import Sequence
from typing import Any

from components.evaluate.scoring.scores import ModelScores, edits, lengths
from components.shared.scoring.sign_test import sign_test
from components.shared.scoring.statistics import DocumentBootstrap

JUDGED = "adapter"


def comparisons(models: Sequence[ModelScores], bootstrap: DocumentBootstrap) -> list[dict[str, Any]]:
    """Return one JSON-serialisable comparison of the adapter's CER for each other row; none without an adapter.

    ``difference`` is CER(against) - CER(adapter): above zero the adapter reads better.
    """
    judged = next((scores for scores in models if scores.name == JUDGED), None)
    if judged is None:
        return []
    return [_comparison(judged, other, bootstrap) for other in models if other is not judged]


def _comparison(judged: ModelScores, other: ModelScores, bootstrap: DocumentBootstrap) -> dict[str, Any]:
    mine, others = [edits([page.characters for page in scores.pages]) for scores in (judged, other)]
    paired = bootstrap.compare(others, mine, lengths([page.characters for page in judged.pages]))
    return {
        "against": other.name,
        "adapter_cer": paired.adapter,
        "against_cer": paired.base,
        "difference": paired.difference,
        "difference_interval": paired.difference_interval,
        "ratio": paired.ratio,
        "ratio_interval": paired.ratio_interval,
        "sign_test": sign_test(mine, others).as_json(),
    }
