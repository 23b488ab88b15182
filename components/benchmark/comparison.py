"""What may be said about two contenders: ratios with their spread, and whether the comparison was fair."""

import statistics
from collections.abc import Callable

from pydantic import BaseModel

from components.benchmark.config import Contender
from components.benchmark.contender import Measurement


class Ratio(BaseModel):
    """``standard`` divided by ``unsloth``, one value per repeat: above 1 unsloth needs less."""

    quantity: str
    median: float
    lowest: float
    highest: float
    values: list[float]


class Comparison(BaseModel):
    """The content of ``benchmark.json`` below its settings."""

    measurements: list[Measurement]
    ratios: list[Ratio]
    """empty unless both contenders ran"""
    notes: list[str]
    """what a reader must know before quoting a ratio"""


def compare(measurements: list[Measurement]) -> Comparison:
    """Pair the contenders' repeats; a ratio is made only of two runs that both ended well."""
    pairs = _pairs(measurements)
    ratios = [
        ratio
        for quantity, figure in (
            ("median_step_seconds", lambda run: run.median_step_seconds),
            ("startup_seconds", lambda run: run.startup_seconds),
            ("peak_allocated_bytes", _allocated),
        )
        if (ratio := _ratio(quantity, pairs, figure))
    ]
    return Comparison(measurements=measurements, ratios=ratios, notes=_notes(measurements, pairs))


def _pairs(measurements: list[Measurement]) -> list[tuple[Measurement, Measurement]]:
    ended_well: dict[tuple[Contender, int], Measurement] = {
        (run.contender, run.repeat): run for run in measurements if run.status == "ok"
    }
    return [
        (run, ended_well["unsloth", repeat])
        for (contender, repeat), run in ended_well.items()
        if contender == "standard" and ("unsloth", repeat) in ended_well
    ]


def _allocated(run: Measurement) -> float | None:
    return run.peak_memory_bytes["allocated"] if run.peak_memory_bytes else None


def _ratio(
    quantity: str,
    pairs: list[tuple[Measurement, Measurement]],
    figure: Callable[[Measurement], float | None],
) -> Ratio | None:
    values = [above / below for first, second in pairs if (above := figure(first)) and (below := figure(second))]
    if not values:
        return None
    return Ratio(
        quantity=quantity, median=statistics.median(values), lowest=min(values), highest=max(values), values=values
    )


def _notes(measurements: list[Measurement], pairs: list[tuple[Measurement, Measurement]]) -> list[str]:
    ran = {run.contender for run in measurements if run.status == "ok"}
    notes = [
        f"{run.contender}, repeat {run.repeat}: {run.status}, {run.reason}"
        for run in measurements
        if run.status != "ok"
    ]
    if len(ran) == 1 and not pairs:
        notes.append(f"only the {ran.pop()} trainer ran: there is nothing to compare it with")
    if pairs and len(pairs) == 1:
        notes.append("one repeat: the ratios have no spread")
    if any(first.tokens_per_step != second.tokens_per_step for first, second in pairs):
        notes.append("the contenders did not see the same number of tokens in each step")
    if any(first.trainable_parameters != second.trainable_parameters for first, second in pairs):
        counts = {run.contender: run.trainable_parameters for pair in pairs for run in pair}
        given = ", ".join(f"{contender} {count:,}" for contender, count in counts.items())
        notes.append(f"the contenders do not train the same parameters ({given})")
    return notes
