"""The comparison of the contenders: one row each, ratios with their spread, and notes on whether it was fair."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from components.shared.artifacts.benchmark_report import ContenderRow, Measurement, Ratio, Spread
from components.shared.programs.probe_settings import Contender

Kind = Literal["cost", "gain"]
Figure = Callable[[Measurement], float | list[float] | None]

BASELINES: tuple[Contender, ...] = ("standard", "stock")
"""Unsloth is compared with each of these."""
COSTS: Kind = "cost"
GAINS: Kind = "gain"

_Quantity = tuple[str, Kind, Figure]
_Pair = tuple[Measurement, Measurement]


def _memory(kind: str) -> Figure:
    return lambda run: getattr(run.peak_memory_bytes, kind, None)


QUANTITIES: tuple[_Quantity, ...] = (
    ("median_step_seconds", COSTS, lambda run: run.median_step_seconds),
    ("samples_per_second", GAINS, lambda run: run.samples_per_second),
    ("tokens_per_second", GAINS, lambda run: run.tokens_per_second),
    ("startup_seconds", COSTS, lambda run: run.startup_seconds),
    ("peak_allocated_bytes", COSTS, _memory("allocated")),
    ("peak_reserved_bytes", COSTS, _memory("reserved")),
    ("generated_tokens_per_second", GAINS, lambda run: run.generated_tokens_per_second),
    ("generated_pages_per_second", GAINS, lambda run: run.generated_pages_per_second),
    ("graphed_tokens_per_second", GAINS, lambda run: run.graphed_tokens_per_second),
    ("graphed_pages_per_second", GAINS, lambda run: run.graphed_pages_per_second),
    ("first_token_seconds", COSTS, lambda run: run.first_token_seconds),
    ("largest_batch", GAINS, lambda run: run.largest_batch),
    ("largest_batch_samples_per_second", GAINS, lambda run: run.largest_batch_samples_per_second),
    ("longest_context", GAINS, lambda run: run.longest_context),
)
"""The compared quantities; each ratio is defined so that a value above 1 means that Unsloth is better."""
_ROW_ONLY: tuple[_Quantity, ...] = (
    ("compile_seconds", COSTS, lambda run: run.compile_seconds),
    ("data_wait_share", COSTS, lambda run: run.data_wait_share),
    ("cer", COSTS, lambda run: run.cer),
    ("final_loss", COSTS, lambda run: run.losses[-1] if run.losses else None),
    ("peak_resident_bytes", COSTS, _memory("resident")),
)


@dataclass(frozen=True)
class Comparison:
    """The figures of ``benchmark.json``; see ``BenchmarkReport``."""

    contenders: list[ContenderRow]
    measurements: list[Measurement]
    ratios: list[Ratio]
    notes: list[str]


def compare(measurements: list[Measurement]) -> Comparison:
    """Make a row per contender, and pair the repeats; a ratio needs two successful runs."""
    pairs = {baseline: _pairs(measurements, baseline) for baseline in BASELINES}
    names = dict.fromkeys(run.contender for run in measurements)
    return Comparison(
        contenders=[_row(name, [run for run in measurements if run.contender == name]) for name in names],
        measurements=measurements,
        ratios=[
            ratio
            for baseline in BASELINES
            for quantity in QUANTITIES
            if (ratio := _ratio(*quantity, baseline, pairs[baseline]))
        ],
        notes=_notes(measurements, [pair for of_baseline in pairs.values() for pair in of_baseline]),
    )


def _pairs(measurements: list[Measurement], baseline: Contender) -> list[_Pair]:
    ended_well: dict[tuple[Contender, int], Measurement] = {
        (run.contender, run.repeat): run for run in measurements if run.status == "ok"
    }
    return [
        (run, ended_well["unsloth", repeat])
        for (contender, repeat), run in ended_well.items()
        if contender == baseline and ("unsloth", repeat) in ended_well
    ]


def _row(contender: Contender, runs: list[Measurement]) -> ContenderRow:
    ok = [run for run in runs if run.status == "ok"]
    figures = {}
    for name, _, figure in (*QUANTITIES, *_ROW_ONLY):
        if values := [value for run in ok for value in _listed(figure(run))]:
            figures[name] = Spread(**_spread(values))
    missing = {name: str(result.reason) for run in ok for name, result in run.probes.items() if result.status != "ok"}
    first = ok[0] if ok else runs[0]
    return ContenderRow(
        contender=contender,
        status=first.status,
        reason=first.reason,
        runs=len(ok),
        figures=figures,
        missing=missing,
    )


def _listed(value: float | list[float] | None) -> list[float]:
    if value is None:
        return []
    return value if isinstance(value, list) else [float(value)]


def _spread(values: list[float]) -> dict[str, float | list[float]]:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "values": values,
    }


def _ratio(quantity: str, kind: Kind, figure: Figure, baseline: Contender, pairs: list[_Pair]) -> Ratio | None:
    values = [
        other / unsloth if kind == COSTS else unsloth / other
        for pair in pairs
        for other, unsloth in zip(*(_listed(figure(run)) for run in pair), strict=False)
        if other and unsloth
    ]
    formula = f"{baseline} / unsloth" if kind == COSTS else f"unsloth / {baseline}"
    return Ratio(quantity=quantity, baseline=baseline, formula=formula, **_spread(values)) if values else None


def _notes(measurements: list[Measurement], pairs: list[_Pair]) -> list[str]:
    ran = {run.contender for run in measurements if run.status == "ok"}
    notes = [
        f"{run.contender}, repeat {run.repeat}: {run.status}, {run.reason}"
        for run in measurements
        if run.status != "ok"
    ]
    if len(ran) == 1 and not pairs:
        notes.append(f"only the {ran.pop()} trainer ran: there is nothing to compare it with")
    if pairs and len({run.repeat for pair in pairs for run in pair}) == 1:
        notes.append("one repeat: the ratios of training have no spread")
    if any(first.tokens_per_step != second.tokens_per_step for first, second in pairs):
        notes.append("the contenders did not see the same number of tokens in each step")
    if any(first.trainable_parameters != second.trainable_parameters for first, second in pairs):
        counts = {run.contender: run.trainable_parameters for pair in pairs for run in pair}
        given = ", ".join(f"{contender} {count:,}" for contender, count in counts.items())
        notes.append(f"the contenders do not train the same parameters ({given})")
    attention = {
        run.contender: run.details["attention"] for run in measurements if run.details and "attention" in run.details
    }
    if len(set(attention.values())) > 1:
        given = ", ".join(f"{contender} {name}" for contender, name in attention.items())
        notes.append(f"the contenders do not use the same attention implementation ({given})")
    notes += [
        f"{run.contender}: its generation cannot be recorded ({reason})"
        for run in measurements
        if (generation := run.probes.get("generation")) and (reason := generation.figure("not_recorded"))
    ]
    for run in measurements:
        context = run.probes.get("longest_context")
        if context and (positions := context.figure("model_positions")) and (run.longest_context or 0) > positions:
            notes.append(
                f"{run.contender}: the longest context is what the memory holds; the model has {positions:,} positions"
            )
    return notes
