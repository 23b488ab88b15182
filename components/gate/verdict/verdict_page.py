"""``verdict.md``: the verdict as a page that KFP and MLflow show."""

from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.artifacts.markdown import markdown_code, markdown_text
from components.shared.scoring.paired_comparison import Interval

PAGE_FILE = "verdict.md"


def verdict_page(verdict: GateVerdict) -> str:
    """Return the verdict as Markdown: the decision and why, the figures, the rules."""
    metric = verdict.metric.upper()
    rules = [
        f"| {rule.rule} | {'passed' if rule.passed else 'failed'} | {markdown_text(rule.finding)} |"
        for rule in verdict.rules
    ]
    model = verdict.reference_model.model_dump(exclude_none=True)
    reference = ", ".join(f"{name} {markdown_text(value)}" for name, value in model.items())
    lines = [
        f"# {verdict.decision.capitalize()}",
        "",
        f"{markdown_text(verdict.reason[0].upper() + verdict.reason[1:])}.",
        "",
        f"| | adapter | {verdict.reference} | improvement | 95 % interval of the improvement |",
        "|---|---|---|---|---|",
        _row(metric, verdict.challenger_error, verdict.reference_error, verdict.improvement_interval),
        _row(
            "loop rate",
            verdict.challenger_loop_rate,
            verdict.reference_loop_rate,
            verdict.loop_rate_improvement_interval,
        ),
        "",
        f"A positive improvement means that the adapter is better. {verdict.pages} pages of {verdict.documents} "
        f"documents, texts normalised by `{verdict.normalization}`.",
        "",
        "| rule | | finding |",
        "|---|---|---|",
        *rules,
        "",
        f"To be promoted, the adapter's {metric} must improve by more than {100 * verdict.min_improvement:.2f} points "
        f"at the lower bound of the interval, over {verdict.min_documents} documents or more, and its loop rate may "
        f"grow by at most {100 * verdict.max_loop_rate_increase:.2f} points, and not beyond chance. Intervals: paired "
        f"percentile bootstrap over documents, {verdict.bootstrap_resamples} resamples, seed {verdict.seed}.",
        "",
        *_unknown_training(verdict),
        f"Reference: the {verdict.reference}{f' ({reference})' if reference else ''}. "
        f"Adapter sha256: {markdown_code(verdict.adapter_sha256)}. Dataset: {markdown_code(verdict.dataset_digest)}.",
        "",
    ]
    return "\n".join(lines)


def _unknown_training(verdict: GateVerdict) -> list[str]:
    unknown = [f"{name}: {said}" for name, said in verdict.training_documents.items() if said.startswith("not checked")]
    if not unknown:
        return []
    return [f"**It is not known whether these pages were trained on**: {', '.join(unknown)}.", ""]


def _row(name: str, challenger: float, reference: float, interval: Interval | None) -> str:
    shown = f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}" if interval else "none (one document)"
    return f"| {name} | {challenger:.2%} | {reference:.2%} | {100 * (reference - challenger):+.2f} | {shown} |"
