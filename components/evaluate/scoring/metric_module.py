"""The project's metrics as a module of Hugging Face's ``evaluate``, for users; the evaluate step does not need it.

    evaluate.load("components/evaluate/scoring/metric_module.py", "cer").compute(predictions=[...], references=[...])

or ``load_metric("cer")``, which leaves no copy of the file in ``evaluate``'s cache. Neither asks the hub. BERTScore
takes its encoder's folder: ``load_metric("bertscore").compute(..., model="my-bert")``.
"""

from typing import Any

import datasets
import evaluate

from components.evaluate.scoring.text_metrics import METRICS


class PageTexts(evaluate.Metric):
    """One of ``text_metrics.METRICS``, chosen by ``config_name``; ``predictions`` and ``references`` are page texts.

    >>> load_metric("rouge").compute(predictions=["the cat lay"], references=["the cat sat"])["rouge2"]
    0.5
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in METRICS:
            raise ValueError(f"no metric {self.config_name!r}; there are {', '.join(METRICS)}")
        return evaluate.MetricInfo(
            description=METRICS[self.config_name].__doc__ or "",
            citation="",
            inputs_description="predictions: what was read, None for a page that failed; references: the labels",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str | None], references: list[str], **options: Any) -> dict[str, float]:
        return METRICS[self.config_name](references, predictions, **options)


def load_metric(name: str) -> PageTexts:
    """Return a metric that keeps its pages in memory.

    Raises:
        ValueError: there is no such metric.
    """
    return PageTexts(config_name=name, keep_in_memory=True)
