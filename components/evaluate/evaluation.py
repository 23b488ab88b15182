"""The evaluation from top to bottom: what is checked, who reads, what is counted and written."""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from components.evaluate.config import EvaluateConfig
from components.evaluate.readers.champion import Champion, fetch_champion
from components.evaluate.readers.classic_engines import engine_versions, installed_engines
from components.evaluate.readers.generation import Transcription, transcribe
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.readers.shared_documents import (
    TrainingDocuments,
    check_training_documents,
    training_documents_of,
)
from components.evaluate.report.report_html import write_html
from components.evaluate.report.report_json import models_content, report_content
from components.evaluate.report.samples_file import write_samples
from components.evaluate.scoring.bert_score import BertScorer
from components.evaluate.scoring.breakdowns import breakdowns
from components.evaluate.scoring.comparisons import comparisons
from components.evaluate.scoring.scores import ROWS, ModelRow, ModelScores, edits, labels_of, lengths, row_of, score
from components.shared.artifacts.output_folder import finished_folder
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.adapter_loading import (
    check_base_of_adapter,
    check_fine_tuned_weights,
    load_fine_tuned,
    load_fine_tuned_processor,
)
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import (
    default_device,
    default_dtype,
    load_model,
    load_processor,
    model_type_of,
    release_memory,
)
from components.shared.models.unsloth_inference import load_with_unsloth
from components.shared.reading.image_settings import ImageSettings, with_image_settings
from components.shared.reading.transcriber import Transcriber
from components.shared.scoring.statistics import DocumentBootstrap, PairedComparison
from components.shared.scoring.text_normalization import normalizer
from components.shared.tracking.step_run import TrackedRun, step_run

logger = logging.getLogger(__name__)

_THREADS_BESIDE_A_GPU = 4


@dataclass(frozen=True)
class EvaluateResult:
    """The finished folder and its figures."""

    folder: Path
    rows: list[ModelRow]
    comparison: PairedComparison | None
    dataset_digest: str


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Transcribe, score and report; see ``step.run``."""
    with (
        finished_folder(config.output_dir) as folder,
        step_run("evaluate", _parameters(config)) as tracked,
        _champion(config) as champion,
    ):
        # What is wrong is said now, not after the base has read everything.
        _check_fine_tuned(config)
        bert_scorer = BertScorer(config.bertscore_model, config.bertscore_layer) if config.bertscore_model else None
        dataset = ShardDataset(config.dataset_dir, config.split)
        shared = check_training_documents(dataset, config.split)
        trained_on = _trained_on(config, champion, dataset, shared)
        pages = EvaluationPages(dataset, config.max_pages, config.seed)
        tracked.log_dataset(pages.manifest.digest, str(pages.manifest.config.get("source")), "evaluation")
        normalise = normalizer(config.normalization)
        labels = labels_of(pages, normalise)

        found = dict(_transcriptions(config, champion, pages))
        models = [score(name, labels, found[name], normalise, bert_scorer) for name in ROWS if name in found]
        bootstrap = DocumentBootstrap([label.source_id for label in labels], config.bootstrap_resamples, config.seed)
        rows = [row_of(scores, bootstrap) for scores in models]
        comparison = _comparison(models, bootstrap)

        report = {
            **report_content(config, pages, shared, rows, comparison),
            "models": models_content(config, champion, engine_versions(found), trained_on),
            "comparisons": comparisons(models, bootstrap),
            "breakdowns": breakdowns(models, labels, config.bootstrap_resamples, config.seed),
        }
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        write_samples(folder / "samples.parquet", models, config.normalization)
        write_html(folder / "report.html", report, models, pages, config.worst_pages)
        _track(tracked, rows, comparison, folder)
    for row in rows:
        logger.info("%s: CER %.4f, WER %.4f, %.2f pages/s", row.name, row.cer, row.wer, row.pages_per_second)
    return EvaluateResult(config.output_dir, rows, comparison, pages.manifest.digest)


@contextmanager
def _champion(config: EvaluateConfig) -> Iterator[Champion | None]:
    if config.champion is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="champion-") as folder:
        yield fetch_champion(config.champion, config.base_model, config.revision, Path(folder) / "files")


def _trained_on(
    config: EvaluateConfig, champion: Champion | None, dataset: ShardDataset, shared: TrainingDocuments
) -> dict[str, TrainingDocuments]:
    folders = {"adapter": config.adapter_dir, "champion": champion.folder if champion else None}
    return {name: training_documents_of(name, each, dataset, shared) for name, each in folders.items() if each}


def _transcriptions(
    config: EvaluateConfig, champion: Champion | None, pages: EvaluationPages
) -> Iterator[tuple[str, Transcription]]:
    """Yield each row's name and its transcription; one model at a time is in memory.

    The adapter comes first: one that does not fit the base is found before the base has read everything.
    """
    if config.adapter_dir is not None:
        yield "adapter", _read_with_model(config, pages, "adapter", config.adapter_dir)
    yield "base", _read_with_model(config, pages, "base", None)
    if champion is not None:
        yield "champion", _read_with_model(config, pages, "champion", champion.folder)
    if config.classic_ocr:
        for engine in installed_engines():
            yield engine.name, engine.transcribe(pages)


def _check_fine_tuned(config: EvaluateConfig) -> None:
    if config.adapter_dir is not None:
        check_base_of_adapter(config.base_model, config.revision, config.adapter_dir)
        check_fine_tuned_weights(config.adapter_dir)


def _read_with_model(
    config: EvaluateConfig, pages: EvaluationPages, name: str, adapter_dir: Path | None
) -> Transcription:
    source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if adapter_dir is None:
        processor = load_processor(config.base_model, **source)
    else:
        processor = load_fine_tuned_processor(config.base_model, adapter_dir, **source)
    model = _loaded(config, adapter_dir)
    family = family_of(model_type_of(config.base_model, **source))
    family = with_image_settings(ImageSettings.of(config.model_dump()), processor, family)
    transcriber = Transcriber(model, processor, family, config.max_new_tokens)
    try:
        return transcribe(pages, transcriber, config.per_device_eval_batch_size, name, _threads(config))
    finally:
        del model, transcriber
        release_memory()


def _threads(config: EvaluateConfig) -> int:
    """On a CPU the model needs the cores itself."""
    if config.dataloader_num_workers is not None:
        return config.dataloader_num_workers
    return _THREADS_BESIDE_A_GPU if default_device().type == "cuda" else 0


def _loaded(config: EvaluateConfig, adapter_dir: Path | None) -> PreTrainedModel:
    device = default_device()
    source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if config.backend == "unsloth":
        return load_with_unsloth(config.base_model, adapter_dir, dtype=default_dtype(device), **source)
    placed: dict[str, Any] = {"dtype": default_dtype(device), "device": device, **source}
    if adapter_dir is None:
        return load_model(config.base_model, **placed).eval()
    return load_fine_tuned(config.base_model, adapter_dir, **placed)


def _comparison(models: list[ModelScores], bootstrap: DocumentBootstrap) -> PairedComparison | None:
    counts = {scores.name: [page.characters for page in scores.pages] for scores in models}
    if "adapter" not in counts:
        return None
    return bootstrap.compare(edits(counts["base"]), edits(counts["adapter"]), lengths(counts["base"]))


def _parameters(config: EvaluateConfig) -> dict[str, str | int | float | bool | None]:
    return config.model_dump(mode="json", exclude={"output_dir"})


def _track(tracked: TrackedRun, rows: list[ModelRow], comparison: PairedComparison | None, folder: Path) -> None:
    for row in rows:
        figures = {name: value for name, value in row.as_json().items() if isinstance(value, int | float)}
        tracked.log_metrics({f"{row.name}_{name}": float(value) for name, value in figures.items()})
    if comparison:
        tracked.log_metrics({"cer_difference": comparison.difference})
        if comparison.ratio is not None:
            tracked.log_metrics({"cer_ratio": comparison.ratio})
    for name in ("report.html", "report.json", "samples.parquet"):
        tracked.log_artifact(folder / name)
