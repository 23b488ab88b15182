"""The gate's rules.

1. improvement: the lower bound of the improvement's interval is above ``min_improvement``, and pages of at least
   ``min_documents`` documents were read. The adapter must prove that it is better; where too little was read to tell,
   the model in use stays. Of few documents the bootstrap's interval is too narrow (of two it is the range of both), so
   that it lies above 0 by chance more often than its 95 % say.
2. loop rate: the share of pages that end in a repetition loop may not grow by more than ``max_loop_rate_increase``
   (one page of a hundred that differs is chance), and not by any amount that is beyond chance, i.e. with a lower
   bound above 0 (on thousands of pages a smaller growth is certain).

Both intervals are paired percentile bootstraps over documents, the statistic of the evaluation's report.
"""

from components.gate.config import GateConfig
from components.gate.evaluation_folder import CHALLENGER, PairedPages
from components.shared.artifacts.gate_verdict import GateVerdict, RuleOutcome
from components.shared.scoring.statistics import CONFIDENCE, DocumentBootstrap, Interval, PairedComparison, negated

_NAMES = {"cer": "CER", "wer": "WER"}


def judged(pages: PairedPages, config: GateConfig) -> GateVerdict:
    """Return the verdict over ``pages``."""
    bootstrap = DocumentBootstrap(pages.source_ids, config.bootstrap_resamples, config.seed)
    errors = bootstrap.compare(pages.reference_edits, pages.challenger_edits, pages.lengths)
    count = len(pages.lengths)
    loops = bootstrap.compare(_numbers(pages.reference_loops), _numbers(pages.challenger_loops), [1.0] * count)
    # From the counts: a difference of two rates is 0.010000000000000009 where it should be 0.01.
    loop_increase = (sum(pages.challenger_loops) - sum(pages.reference_loops)) / count
    loop_interval = negated(loops.difference_interval)
    rules = [
        _improvement_rule(errors, pages.reference, config),
        _loop_rule(loop_increase, loop_interval, pages.reference, config),
    ]
    failed = [rule for rule in rules if not rule.passed]
    return GateVerdict(
        promoted=not failed,
        reason="; ".join(rule.finding for rule in failed or rules[:1]),
        rules=rules,
        challenger=CHALLENGER,
        reference=pages.reference,
        reference_model=_plain(pages.report["models"].get(pages.reference) or {}),
        metric=config.metric,
        challenger_error=errors.adapter,
        reference_error=errors.base,
        improvement=errors.difference,
        improvement_interval=errors.difference_interval,
        min_improvement=config.min_improvement,
        min_documents=config.min_documents,
        challenger_loop_rate=loops.adapter,
        reference_loop_rate=loops.base,
        loop_rate_increase=loop_increase,
        loop_rate_increase_interval=loop_interval,
        max_loop_rate_increase=config.max_loop_rate_increase,
        pages=count,
        documents=bootstrap.documents,
        confidence=CONFIDENCE,
        bootstrap_resamples=config.bootstrap_resamples,
        seed=config.seed,
        normalization=pages.report["normalization"],
        dataset_digest=pages.report["dataset"]["digest"],
        adapter_sha256=str(pages.report["models"][CHALLENGER]["sha256"]),
        training_documents={
            name: str(model["training_documents"])
            for name, model in pages.report["models"].items()
            if model and "training_documents" in model
        },
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


def _loop_rule(increase: float, interval: Interval | None, reference: str, config: GateConfig) -> RuleOutcome:
    allowed = config.max_loop_rate_increase
    certain = interval is not None and interval[0] > 0 and allowed < 1
    passed = increase <= allowed and not certain
    change = f"{_points(abs(increase))} {'lower' if increase < 0 else 'higher'} than" if increase else "the same as"
    finding = (
        f"the loop rate is {change} the {reference}'s"
        f"{f', 95 % interval {_interval(interval)}' if interval else ''}"
        f"{'' if passed else f', beyond the allowed {_points(allowed)}' if increase > allowed else ', beyond chance'}"
    )
    return RuleOutcome(rule="loop rate", passed=passed, finding=finding)


def _numbers(flags: list[bool]) -> list[float]:
    return [float(flag) for flag in flags]


def _points(rate: float) -> str:
    return f"{100 * rate:.2f} points"


def _interval(interval: Interval) -> str:
    return f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f} points"


def _plain(model: dict[str, object]) -> dict[str, str | int | None]:
    return {name: value for name, value in model.items() if value is None or isinstance(value, str | int)}
