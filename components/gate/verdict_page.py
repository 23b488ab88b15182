"""``verdict.md``: the verdict for a reader, shown by KFP and MLflow."""

from components.shared.artifacts.gate_verdict import GateVerdict
from components.shared.scoring.statistics import Interval, negated

PAGE_FILE = "verdict.md"


def verdict_page(verdict: GateVerdict) -> str:
    """Return the verdict as Markdown: the decision and why, the figures, the rules."""
    metric = verdict.metric.upper()
    rules = [f"| {rule.rule} | {'passed' if rule.passed else 'failed'} | {rule.finding} |" for rule in verdict.rules]
    reference = ", ".join(f"{name} {value}" for name, value in verdict.reference_model.items() if value is not None)
    lines = [
        f"# {verdict.decision.capitalize()}",
        "",
        f"{verdict.reason[0].upper()}{verdict.reason[1:]}.",
        "",
        f"| | adapter | {verdict.reference} | difference | 95 % interval of the difference |",
        "|---|---|---|---|---|",
        _row(metric, verdict.challenger_error, verdict.reference_error, negated(verdict.improvement_interval)),
        _row(
            "loop rate",
            verdict.challenger_loop_rate,
            verdict.reference_loop_rate,
            verdict.loop_rate_increase_interval,
        ),
        "",
        f"Below 0 in the difference, the adapter is better. {verdict.pages} pages of {verdict.documents} documents, "
        f"texts normalised by `{verdict.normalization}`.",
        "",
        "| rule | | finding |",
        "|---|---|---|",
        *rules,
        "",
        f"The {metric} must improve, at the lower bound of its interval, by more than "
        f"{100 * verdict.min_improvement:.2f} points, over {verdict.min_documents} documents or more; the loop rate "
        f"may grow by {100 * verdict.max_loop_rate_increase:.2f} points, if that is not beyond chance. Intervals: "
        f"paired percentile bootstrap over documents, {verdict.bootstrap_resamples} resamples, seed {verdict.seed}.",
        "",
        *_not_known(verdict),
        f"Reference: the {verdict.reference}{f' ({reference})' if reference else ''}. "
        f"Adapter sha256: `{verdict.adapter_sha256}`. Dataset: `{verdict.dataset_digest}`.",
        "",
    ]
    return "\n".join(lines)


def _not_known(verdict: GateVerdict) -> list[str]:
    unknown = [f"{name}: {said}" for name, said in verdict.training_documents.items() if said.startswith("not checked")]
    if not unknown:
        return []
    return [f"**Whether these pages were trained on is not known** of {', '.join(unknown)}.", ""]


def _row(name: str, challenger: float, reference: float, interval: Interval | None) -> str:
    shown = f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}" if interval else "none (one document)"
    return f"| {name} | {challenger:.2%} | {reference:.2%} | {100 * (challenger - reference):+.2f} | {shown} |"
