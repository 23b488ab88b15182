"""``report.json``: the figures, what they mean, and what they were measured on."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from components.evaluate.config import EvaluateConfig
from components.evaluate.readers.champion import Champion
from components.evaluate.readers.classic_engines import ENGINES
from components.evaluate.readers.classic_ocr import PAGE_SEGMENTATION_MODE
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.readers.shared_documents import TrainingDocuments
from components.evaluate.scoring.metrics import bleu, chrf
from components.evaluate.scoring.repetition import LONGEST_UNIT, LOOP_DEFINITION
from components.evaluate.scoring.scores import ModelRow
from components.shared.digests import sha256_folder
from components.shared.models.adapter_loading import adapter_kind
from components.shared.models.model_loading import default_device, default_dtype
from components.shared.scoring.statistics import PairedComparison
from components.shared.scoring.text_normalization import MEANINGS
from components.shared.versions import software_versions

SCHEMA_VERSION = 1
_PATHS = {"dataset_dir", "adapter_dir", "output_dir", "bertscore_model"}  # of the machine that evaluated


def report_content(
    config: EvaluateConfig,
    pages: EvaluationPages,
    training_documents: str,
    rows: Sequence[ModelRow],
    comparison: PairedComparison | None,
) -> dict[str, Any]:
    """Return what the figures are, and what they were measured on, as a JSON-serialisable mapping."""
    device = default_device()
    return {
        "schema_version": SCHEMA_VERSION,
        "normalization": config.normalization,
        "dataset": {
            "digest": pages.manifest.digest,
            "source_digest": pages.manifest.source_digest,
            "split": config.split,
            "pages": len(pages),
            "pages_in_split": pages.manifest.splits[config.split].samples,
            "training_documents": training_documents,
        },
        "versions": software_versions(),
        "device": device_name(device),
        "dtype": str(default_dtype(device)).removeprefix("torch."),
        "config": config.model_dump(mode="json", exclude=_PATHS),
        "rows": [row.as_json() for row in rows],
        "comparison": comparison.as_json() if comparison else None,
        "definitions": definitions(config),
    }


def models_content(
    config: EvaluateConfig,
    champion: Champion | None,
    engine_versions: dict[str, str],
    training_documents: dict[str, TrainingDocuments],
) -> dict[str, dict[str, Any] | None]:
    """Return what each row was read with; None for a row that is not there.

    ``training_documents`` has the fine-tuned rows.
    """
    seen = {name: {"training_documents": found} for name, found in training_documents.items()}
    return {
        "base": {"base_model": config.base_model, "revision": config.revision},
        "adapter": _adapter(config.adapter_dir) | seen["adapter"] if config.adapter_dir else None,
        "champion": champion.as_json() | seen["champion"] if champion else None,
        **{name: {"version": engine_versions[name]} if name in engine_versions else None for name in ENGINES},
    }


def _adapter(folder: Path) -> dict[str, Any]:
    return {"kind": adapter_kind(folder), "sha256": sha256_folder(folder)}


def _bertscore(config: EvaluateConfig) -> dict[str, str]:
    """Return what the figure means, where it was asked for; the encoder's folder is named by its content too."""
    if config.bertscore_model is None:
        return {}
    layer = "last layer" if config.bertscore_layer is None else f"layer {config.bertscore_layer}"
    encoder = f"{config.bertscore_model.name}, sha256 {sha256_folder(config.bertscore_model)[:12]}, {layer}"
    return {
        "bertscore": f"mean F-measure over the pages of the cosines between token vectors ({encoder}), without idf "
        "weights, not rescaled; 0 for an empty prediction"
    }


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's architecture and the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def definitions(config: EvaluateConfig) -> dict[str, str]:
    """Return what each figure means, in words a reader of the report can check."""
    return {
        "normalization": f"{config.normalization}: {MEANINGS[config.normalization]}. Applied to label and prediction.",
        "cer": "sum of character edits (Unicode code points) over all pages / sum of label characters (micro average)",
        "wer": "sum of word edits over all pages / sum of label words; words are separated by white space",
        "cer_median, cer_p90": "median and 90th percentile of the pages' own CER; a page with an empty label has "
        "0 where the prediction is empty too, else 1",
        "rouge1, rouge2, rougeL": "mean F-measure over the pages, as rouge_score computes it, over casefolded Unicode "
        "words; each ideograph, kana or Hangul syllable is a word",
        "bleu": f"sacrebleu, each page a segment: {bleu(['a'], ['a'])[1]}",
        "chrf": f"sacrebleu, each page a segment: {chrf(['a'], ['a'])[1]}",
        **_bertscore(config),
        "exact_page_rate": "share of pages whose normalised prediction equals the normalised label",
        "failure_rate": "share of pages without a transcription because of an error; each is scored as empty text",
        "loop_rate": f"{LOOP_DEFINITION}: share of predictions that end in a unit of 1 to {LONGEST_UNIT} characters "
        "repeated over at least 30 characters and at least 4 times, unless the label ends in a repetition of the same "
        "unit",
        "truncation_rate": f"share of predictions that reached max_new_tokens ({config.max_new_tokens}) without an end",
        "intervals": "95 % percentile bootstrap over documents (source_id), "
        f"{config.bootstrap_resamples} resamples, seed {config.seed}; null with fewer than two documents",
        "comparison": "paired bootstrap over the same documents of CER(base) - CER(adapter) and CER(adapter) / "
        "CER(base); comparisons: the same of the adapter against every other row",
        "sign_test": "pages on which the adapter makes fewer (better) and more (worse) character edits than the other "
        "row, and the two-sided p-value of the exact binomial test; it takes all pages for independent, the bootstrap "
        "does not",
        "breakdowns": "the pages of each language, task, font and resolution on their own; intervals as above",
        "champion": "the registered version that bears the alias champion, read with the same base",
        "training_documents": "whether documents of these pages were trained on: of the dataset, between its two "
        "splits; of adapter and champion, if they were trained on this dataset",
        "pages_per_second": "pages / seconds, where seconds is wall time of reading the shards, preparing the "
        "pictures, generating in batches and decoding, first batch included, loading the model not; of one run, so "
        "it varies with what else the machine does",
        "generation": "greedy (do_sample=False, num_beams=1), pages sorted by picture area and ink, "
        "left-padded batches; other batch sizes can change single characters, because sums are then rounded in "
        "another order",
        "rapidocr": "the networks that the package brings along; what is found side by side is one line",
        "tesseract": f"page segmentation mode {PAGE_SEGMENTATION_MODE}, one process per page and core",
    }
