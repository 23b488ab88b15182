"""``report.json``: the figures, what they mean, and what they were measured on."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from components.evaluate.config import EvaluateConfig
from components.evaluate.readers.champion import Champion
from components.evaluate.readers.classic_ocr import PAGE_SEGMENTATION_MODE
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.readers.transcriptions import no_repeat_settings
from components.evaluate.scoring.calibration import GOOD_CER
from components.evaluate.scoring.metrics import bleu, chrf
from components.shared.artifacts.confidence_calibration import ConfidenceCalibration
from components.shared.artifacts.evaluation_report import (
    AdapterReader,
    BaseReader,
    BreakdownValue,
    ChampionReader,
    EngineReader,
    EvaluatedDataset,
    EvaluationReport,
    Readers,
    ReadingSettings,
    ReportRow,
    RowComparison,
    TrainingDocuments,
    Trait,
)
from components.shared.digests import sha256_folder
from components.shared.models.adapter_loading import adapter_kind
from components.shared.models.model_loading import default_device, default_dtype
from components.shared.scoring.repetition import LONGEST_UNIT, LOOP_DEFINITION
from components.shared.scoring.text_normalization import MEANINGS
from components.shared.versions import software_versions

_PATHS = {"dataset_dir", "adapter_dir", "output_dir", "bertscore_model"}  # of the machine that evaluated


@dataclass(frozen=True)
class Measured:
    """What was measured."""

    rows: list[ReportRow]
    comparisons: list[RowComparison]
    breakdowns: dict[Trait, list[BreakdownValue]]
    calibration: ConfidenceCalibration | None
    calibration_note: str
    line_calibration: ConfidenceCalibration | None
    line_calibration_note: str
    image_backend: str | None


def evaluation_report(
    config: EvaluateConfig,
    pages: EvaluationPages,
    champion: Champion | None,
    engine_versions: dict[str, str],
    shared: TrainingDocuments,
    trained_on: dict[str, TrainingDocuments],
    measured: Measured,
) -> EvaluationReport:
    """Return the report.

    Args:
        config: the evaluation's settings.
        pages: the pages that were read.
        champion: the registry's champion, if it read them too.
        engine_versions: of the classic engines that read them, by their rows' names.
        shared: whether the dataset's train split shares documents with the pages.
        trained_on: whether adapter and champion were trained on documents of the pages.
        measured: the figures.
    """
    device = default_device()
    no_repeat = no_repeat_settings(config)
    return EvaluationReport(
        created_at=datetime.now(UTC).replace(microsecond=0),
        pipeline_run_id=os.environ.get("KFP_RUN_ID"),
        normalization=config.normalization,
        dataset=_dataset(config, pages, shared),
        models=Readers(
            base=BaseReader(base_model=config.base_model, revision=config.revision),
            adapter=_adapter(config.adapter_dir, trained_on["adapter"]) if config.adapter_dir else None,
            champion=_champion(champion, trained_on["champion"]) if champion else None,
            **{name: EngineReader(version=version) for name, version in engine_versions.items()},
        ),
        versions=software_versions(),
        device=device_name(device),
        dtype=str(default_dtype(device)).removeprefix("torch."),
        reading=ReadingSettings(
            max_new_tokens=config.max_new_tokens,
            no_repeat_ngram_size=no_repeat.size,
            no_repeat_ngram_window=no_repeat.window,
            base_size=config.base_size,
            image_size=config.image_size,
            crop_mode=config.crop_mode,
            max_crops=config.max_crops,
            image_backend=measured.image_backend,
        ),
        config=config.model_dump(mode="json", exclude=_PATHS),
        rows=measured.rows,
        comparisons=measured.comparisons,
        breakdowns=measured.breakdowns,
        calibration=measured.calibration,
        calibration_note=measured.calibration_note,
        line_calibration=measured.line_calibration,
        line_calibration_note=measured.line_calibration_note,
        definitions=definitions(config),
    )


def _dataset(config: EvaluateConfig, pages: EvaluationPages, shared: TrainingDocuments) -> EvaluatedDataset:
    manifest = pages.manifest
    return EvaluatedDataset(
        digest=manifest.digest,
        source_digest=manifest.source_digest,
        split=config.split,
        pages=len(pages),
        pages_in_split=manifest.splits[config.split].samples,
        training_documents=shared,
    )


def _adapter(folder: Path, trained_on: TrainingDocuments) -> AdapterReader:
    return AdapterReader(kind=adapter_kind(folder), sha256=sha256_folder(folder), training_documents=trained_on)


def _champion(champion: Champion, trained_on: TrainingDocuments) -> ChampionReader:
    return ChampionReader(
        registered_model=champion.registered.name,
        version=champion.registered.version,
        kind=adapter_kind(champion.folder),
        sha256=sha256_folder(champion.folder),
        training_documents=trained_on,
    )


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
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"


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
        "comparisons": "the adapter (candidate) against each other row (reference), over the same pages; difference = "
        "CER(reference) - CER(adapter), so positive means that the adapter is better; ratio = CER(adapter) / "
        "CER(reference); paired bootstrap over documents",
        "sign_test": "pages on which the adapter makes fewer (better) and more (worse) character edits than the other "
        "row, and the two-sided p-value of the exact binomial test; it treats all pages as independent, the bootstrap "
        "does not",
        "breakdowns": "the same figures for the pages of each source (a file with many documents), folder, language, "
        "script (of most of the label's letters), task, font and resolution; intervals as above",
        "calibration": f"probability that a page's CER is at most {GOOD_CER:g}, from the mean log-probability of the "
        "answer's tokens (its end token included) by Platt scaling; judged with maps that were fitted without the "
        "page's document. expected_calibration_error: sum over ten bins of equal width of the share of the pages in "
        "the bin times |share read well - mean probability| (Guo et al. 2017, equation 3)",
        "line_calibration": "the same of lines: what stands between two line breaks of an answer. The reading is "
        f"aligned with the label, so a line's CER (at most {GOOD_CER:g}) is that of the label's text which it stands "
        "for; text of the label that no line stands for counts for the page only",
        "champion": "the registered version that bears the alias champion, read with the same base",
        "training_documents": "whether documents of these pages were trained on: of the dataset, between its two "
        "splits; of adapter and champion, if they were trained on this dataset",
        "pages_per_second": "pages / seconds, where seconds is wall time of reading the shards, preparing the "
        "pictures, generating in batches and decoding, first batch included, loading the model not; of one run, so "
        "it varies with what else the machine does",
        "generation": "greedy (do_sample=False, num_beams=1), base, adapter and champion alike, pages sorted by "
        "picture area and ink, left-padded batches; other batch sizes can change single characters, because sums are "
        "then rounded in another order",
        "no_repeat_ngram_size": "where it is given (see reading), a token is ruled out that would complete a sequence "
        "of so many tokens that stands in the last no_repeat_ngram_window tokens of the answer already, except the "
        "tokens <td> and </td>",
        "rapidocr": "the networks that the package brings along; what is found side by side is one line",
        "tesseract": f"page segmentation mode {PAGE_SEGMENTATION_MODE}, one process per page and core",
    }
