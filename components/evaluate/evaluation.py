"""The evaluation from top to bottom: what is checked, who reads, what is scored and written.

Apart from ``step.py``, because Unsloth must be imported before the libraries that these modules import.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.evaluate.config import EvaluateConfig
from components.evaluate.readers.champion import Champion, fetch_champion
from components.evaluate.readers.classic_engines import engine_versions
from components.evaluate.readers.pages import EvaluationPages
from components.evaluate.readers.shared_documents import check_training_documents, training_documents_of
from components.evaluate.readers.transcriptions import no_repeat_settings, transcriptions
from components.evaluate.report.report_html import HTML_FILE, write_html
from components.evaluate.report.report_json import Measured, evaluation_report
from components.evaluate.report.samples_file import SAMPLES_FILE, write_samples
from components.evaluate.scoring.bert_score import BertScorer
from components.evaluate.scoring.breakdowns import breakdowns
from components.evaluate.scoring.calibration import calibrated, calibrated_lines
from components.evaluate.scoring.comparisons import comparisons
from components.evaluate.scoring.scores import ROWS, judged, labels_of, row_of, score
from components.shared.artifacts.evaluation_report import EvaluationReport
from components.shared.artifacts.output_folder import finished_folder, scratch_folder
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.adapter_loading import check_base_of_adapter, check_fine_tuned_weights
from components.shared.models.model_loading import default_device
from components.shared.models.weight_memory import BFLOAT16, FLOAT32, check_weights_fit
from components.shared.scoring.statistics import DocumentBootstrap
from components.shared.scoring.text_normalization import normalizer
from components.shared.tracking import headline
from components.shared.tracking.step_run import TrackedRun, step_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateResult:
    """The finished folder and its report."""

    folder: Path
    report: EvaluationReport


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Transcribe, score and report; see ``step.run``."""
    with (
        finished_folder(config.output_dir) as folder,
        step_run("evaluate", config.model_dump(mode="json", exclude={"output_dir"})) as tracked,
        _champion(config) as champion,
    ):
        # Errors in the inputs come now, not after the base has read everything.
        _check_models(config)
        bert_scorer = BertScorer(config.bertscore_model, config.bertscore_layer) if config.bertscore_model else None
        dataset = ShardDataset(config.dataset_dir, config.split)
        shared = check_training_documents(dataset, config.split)
        fine_tuned = {"adapter": config.adapter_dir, "champion": champion.folder if champion else None}
        trained_on = {
            name: training_documents_of(name, place, dataset, shared) for name, place in fine_tuned.items() if place
        }
        pages = EvaluationPages(dataset, config.max_pages, config.seed)
        tracked.log_dataset(pages.manifest.digest, pages.manifest.sources_name(), "evaluation")
        normalise = normalizer(config.normalization)
        labels = labels_of(pages, normalise)

        found = dict(transcriptions(config, champion, pages))
        models = [score(name, labels, found[name], normalise, bert_scorer) for name in ROWS if name in found]

        bootstrap = DocumentBootstrap([label.source_id for label in labels], config.bootstrap_resamples, config.seed)
        calibration, note = calibrated(judged(models).pages)
        line_calibration, line_note = calibrated_lines(judged(models).pages, normalise)
        measured = Measured(
            rows=[row_of(scores, bootstrap) for scores in models],
            comparisons=comparisons(models, bootstrap),
            breakdowns=breakdowns(models, labels, config.bootstrap_resamples, config.seed),
            calibration=calibration,
            calibration_note=note,
            line_calibration=line_calibration,
            line_calibration_note=line_note,
            image_backend=found["base"].image_backend,
        )
        report = evaluation_report(config, pages, champion, engine_versions(found), shared, trained_on, measured)
        report.write(folder)
        write_samples(folder / SAMPLES_FILE, models, config.normalization)
        write_html(folder / HTML_FILE, report, models, pages, config.worst_pages)
        _track(tracked, report, folder)
    for row in report.rows:
        logger.info("%s: CER %.4f, WER %.4f, %.2f pages/s", row.name, row.cer, row.wer, row.pages_per_second)
    return EvaluateResult(config.output_dir, report)


@contextmanager
def _champion(config: EvaluateConfig) -> Iterator[Champion | None]:
    if config.champion is None:
        yield None
        return
    with scratch_folder("deepsynth-champion") as folder:
        yield fetch_champion(config.champion, config.base_model, config.revision, folder / "files")


def _check_models(config: EvaluateConfig) -> None:
    loaded = BFLOAT16 if default_device().type == "cuda" else FLOAT32  # as default_dtype says
    check_weights_fit(config.base_model, config.revision, loaded)
    no_repeat_settings(config)
    if config.adapter_dir is not None:
        check_base_of_adapter(config.base_model, config.revision, config.adapter_dir)
        check_fine_tuned_weights(config.adapter_dir)


def _track(tracked: TrackedRun, report: EvaluationReport, folder: Path) -> None:
    for row in report.rows:
        tracked.log_metrics({f"{row.name}_{name}": value for name, value in row.figures().items()})
    tracked.summarize(headline.of_evaluation(report))
    if to_base := report.comparison("base"):
        tracked.log_metrics({"cer_difference": to_base.cer.difference})
        if to_base.cer.ratio is not None:
            tracked.log_metrics({"cer_ratio": to_base.cer.ratio})
    for name in (HTML_FILE, report.FILE, SAMPLES_FILE):
        tracked.log_artifact(folder / name)
