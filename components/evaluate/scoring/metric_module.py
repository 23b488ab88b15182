"""The project's metrics as a module of Hugging Face's ``evaluate``: no hub is asked for it.

    evaluate.load("components/evaluate/scoring/metric_module.py", "cer").compute(predictions=[...], references=[...])

or, without ``evaluate``'s copy of the file in its cache, ``load_metric("cer")``. BERTScore takes its encoder's folder:
``load_metric("bertscore").compute(..., model="my-bert")``.
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
        metric = METRICS[self.config_name](**options)
        for prediction, reference in zip(predictions, references, strict=True):
            metric.update(reference, prediction)
        return dict(metric.summary())


def load_metric(name: str) -> PageTexts:
    """Return a metric that keeps its pages in memory.

    Raises:
        ValueError: there is no such metric.
    """
    return PageTexts(config_name=name, keep_in_memory=True)
