"""Decide whether a new adapter is promoted:

python -m components.gate --evaluation_dir EVALUATION --output_dir VERDICT
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from components.gate.config import GateConfig
from components.gate.verdict.paired_pages import PairedPages, read_pages
from components.gate.verdict.rules import judged
from components.gate.verdict.verdict_page import PAGE_FILE, verdict_page
from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.output_folder import finished_folder
from components.shared.tracking import headline
from components.shared.tracking.step_run import TrackedRun, step_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateResult:
    """The finished folder and the decision."""

    folder: Path
    verdict: GateVerdict


def run(config: GateConfig) -> GateResult:
    """Compare the adapter with the champion, or with the base where there is none, and write the verdict.

    "Not promoted" is a result, not an error.

    Raises:
        UserError: the evaluation cannot be read, its models did not read the same pages with the same labels and
            normalisation, or the output folder is in use.
    """
    parameters = config.model_dump(mode="json", exclude={"output_dir"})
    with finished_folder(config.output_dir) as folder, step_run("gate", parameters) as tracked:
        pages = read_pages(config.evaluation_dir, config.metric)
        verdict = judged(pages, config)
        verdict.write(folder)
        (folder / PAGE_FILE).write_text(verdict_page(verdict), encoding="utf-8")
        _track(tracked, verdict, pages, folder)
    logger.info("%s: %s", verdict.decision, verdict.reason)
    return GateResult(config.output_dir, verdict)


def _track(tracked: TrackedRun, verdict: GateVerdict, pages: PairedPages, folder: Path) -> None:
    tracked.log_dataset(verdict.dataset_digest, Path(pages.where).name, "evaluation")
    tracked.set_tags(verdict.tags())
    figures = {
        "promoted": float(verdict.promoted),
        "improvement": verdict.improvement,
        "challenger_error": verdict.challenger_error,
        "reference_error": verdict.reference_error,
        "loop_rate_improvement": verdict.loop_rate_improvement,
    }
    if verdict.improvement_interval:
        low, high = verdict.improvement_interval
        figures |= {"improvement_low": low, "improvement_high": high}
    tracked.log_metrics(figures)
    tracked.summarize(headline.of_verdict(verdict), headline.tags_of_verdict(verdict))
    for name in (verdict.FILE, PAGE_FILE):
        tracked.log_artifact(folder / name)
