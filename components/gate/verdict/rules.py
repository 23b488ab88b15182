"""The gate's rules.

1. improvement: the lower bound of the improvement's interval is above ``min_improvement``, and pages of at least
   ``min_documents`` documents were read. The adapter must prove that it is better; without enough evidence the model
   in use stays. With few documents the bootstrap's interval is too narrow (with two it is the range of both), so it
   excludes 0 by chance more often than 95 % suggests.
2. loop rate: the share of pages that end in a repetition loop may not grow by more than ``max_loop_rate_increase``
   (one page in a hundred can differ by chance), nor by any amount that is significant: an interval that lies below 0
   as a whole. On thousands of pages even a smaller growth is significant.

Improvements are the reference's rate minus the adapter's: positive means that the adapter is better. Both intervals
are paired percentile bootstraps over documents, as in the evaluation's report.
"""

from components.gate.config import GateConfig
from components.gate.verdict.paired_pages import PairedPages
from components.shared.artifacts.gate_verdict import GateVerdict, RuleOutcome
from components.shared.scoring.paired_comparison import CONFIDENCE, Interval, PairedComparison
from components.shared.scoring.statistics import DocumentBootstrap

_NAMES = {"cer": "CER", "wer": "WER"}


def judged(pages: PairedPages, config: GateConfig) -> GateVerdict:
    """Return the verdict over ``pages``."""
    bootstrap = DocumentBootstrap(pages.source_ids, config.bootstrap_resamples, config.seed)
    errors = bootstrap.compare(pages.reference_edits, pages.challenger_edits, pages.lengths)
    count = len(pages.lengths)
    loops = bootstrap.compare(_numbers(pages.reference_loops), _numbers(pages.challenger_loops), [1.0] * count)
    # From the counts: the difference of two rates can be 0.010000000000000009 instead of 0.01.
    loop_improvement = (sum(pages.reference_loops) - sum(pages.challenger_loops)) / count
    rules = [
        _improvement_rule(errors, pages.reference, config),
        _loop_rule(loop_improvement, loops.difference_interval, pages.reference, config),
    ]
    failed = [rule for rule in rules if not rule.passed]
    return GateVerdict(
        promoted=not failed,
        reason="; ".join(rule.finding for rule in failed or rules[:1]),
        rules=rules,
        reference=pages.reference,
        reference_model=pages.reference_model,
        metric=config.metric,
        challenger_error=errors.candidate,
        reference_error=errors.reference,
        improvement=errors.difference,
        improvement_interval=errors.difference_interval,
        min_improvement=config.min_improvement,
        min_documents=config.min_documents,
        challenger_loop_rate=loops.candidate,
        reference_loop_rate=loops.reference,
        loop_rate_improvement=loop_improvement,
        loop_rate_improvement_interval=loops.difference_interval,
        max_loop_rate_increase=config.max_loop_rate_increase,
        pages=count,
        documents=bootstrap.documents,
        confidence=CONFIDENCE,
        bootstrap_resamples=config.bootstrap_resamples,
        seed=config.seed,
        normalization=pages.report.normalization,
        dataset_digest=pages.report.dataset.digest,
        adapter_sha256=pages.adapter.sha256,
        training_documents={name: model.training_documents for name, model in pages.report.models.fine_tuned().items()},
    )


def _improvement_rule(errors: PairedComparison, reference: str, config: GateConfig) -> RuleOutcome:
    name, difference, interval = _NAMES[config.metric], errors.difference, errors.difference_interval
    if interval is None:
        finding = f"the {name} cannot be judged: the pages are all of one document, which gives no interval"
        return RuleOutcome(rule="improvement", passed=False, finding=finding)
    if errors.documents < config.min_documents:
        few = f"{errors.documents} documents, fewer than min_documents ({config.min_documents})"
        return RuleOutcome(rule="improvement", passed=False, finding=f"the {name} cannot be judged: {few}")
    passed = interval[0] > config.min_improvement
    finding = (
        f"the {name} is {_points(abs(difference))} {'lower' if difference >= 0 else 'higher'} than the {reference}'s; "
        f"its improvement's 95 % interval, {_interval(interval)}, "
        f"{'begins' if passed else 'does not begin'} above {_points(config.min_improvement)}"
    )
    return RuleOutcome(rule="improvement", passed=passed, finding=finding)


def _loop_rule(improvement: float, interval: Interval | None, reference: str, config: GateConfig) -> RuleOutcome:
    allowed, increase = config.max_loop_rate_increase, -improvement
    significant = interval is not None and interval[1] < 0 and allowed < 1
    passed = increase <= allowed and not significant
    change = f"{_points(abs(increase))} {'lower' if increase < 0 else 'higher'} than" if increase else "the same as"
    why = "" if passed else f", more than the allowed {_points(allowed)}" if increase > allowed else ", beyond chance"
    finding = (
        f"the loop rate is {change} the {reference}'s"
        f"{f' (95 % interval of the improvement: {_interval(interval)})' if interval else ''}{why}"
    )
    return RuleOutcome(rule="loop rate", passed=passed, finding=finding)


def _numbers(flags: list[bool]) -> list[float]:
    return [float(flag) for flag in flags]


def _points(rate: float) -> str:
    return f"{100 * rate:.2f} points"


def _interval(interval: Interval) -> str:
    return f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f} points"
