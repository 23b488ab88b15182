"""Evaluate a base model and an adapter on held-out pages:

python -m components.evaluate --dataset_dir DATASET --adapter_dir ADAPTER --output_dir EVALUATION
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.evaluate.config import EvaluateConfig
from components.shared.models.unsloth_inference import import_unsloth

if TYPE_CHECKING:
    from components.evaluate.evaluation import EvaluateResult


def run(config: EvaluateConfig) -> EvaluateResult:
    """Transcribe, score and report.

    Raises:
        UserError: no such dataset, model or adapter, an adapter for another base, weights that are truncated, NaN or
            infinite, an unavailable registry or champion, a split without pages, pages of documents that were trained
            on, an output folder in use, labels without text, image settings that the model lacks, no encoder for
            BERTScore, or Unsloth on a machine where it cannot run.
    """
    if config.backend == "unsloth":
        import_unsloth()
    from components.evaluate.evaluation import evaluate  # imports transformers, which Unsloth wants to patch before

    return evaluate(config)
