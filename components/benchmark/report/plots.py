"""The benchmark's plots, as SVG that takes the colours of the surrounding page."""

from collections.abc import Callable
from functools import partial
from typing import Any

from components.shared.artifacts.benchmark_report import Measurement
from components.shared.plots.inline_svg import figure_with_axes, inline_svg, legend_above

# Used on light and dark pages: each has a contrast of at least 3 to white and to #16191d.
COLOURS = {"standard": "#c2741a", "unsloth": "#2f80d8", "stock": "#8a6fb8"}
_GIB = 2**30

_Draw = Callable[[Any, list[Measurement]], None]


def plots(runs: list[Measurement], warmup_steps: int) -> list[tuple[str, str]]:
    """Return (caption, inline ``<svg>``) of each plot that ``runs`` has data for; all of them must be successful."""
    step_times = partial(_step_times, warmup_steps=warmup_steps)
    drawn: list[tuple[str, _Draw]] = [
        ("Seconds per optimizer step: each steady step is a dot, the bar is their median.", step_times),
        ("Losses, step by step, of each run.", _losses),
    ]
    if any(run.peak_memory_bytes and run.peak_memory_bytes.allocated for run in runs):
        drawn.append(("Peak device memory while training: allocated (full) and reserved (pale).", _memory))
    return [(caption, _svg(name, draw, runs)) for name, (caption, draw) in enumerate(drawn)]


def _step_times(axes: Any, runs: list[Measurement], warmup_steps: int) -> None:
    for row, run in enumerate(runs):
        colour = COLOURS[run.contender]
        steady = (run.step_seconds or [])[warmup_steps:]
        axes.barh(row, run.median_step_seconds, color=colour, height=0.6, alpha=0.6)
        axes.plot(steady, [row] * len(steady), "o", color=colour, markersize=5)
    _name_rows(axes, runs)
    axes.set_xlabel("seconds")


def _memory(axes: Any, runs: list[Measurement]) -> None:
    for row, run in enumerate(runs):
        peak = run.peak_memory_bytes
        reserved, allocated = (peak.reserved or 0, peak.allocated or 0) if peak else (0, 0)
        axes.barh(row, reserved / _GIB, color=COLOURS[run.contender], height=0.6, alpha=0.35)
        axes.barh(row, allocated / _GIB, color=COLOURS[run.contender], height=0.6)
    _name_rows(axes, runs)
    axes.set_xlabel("GiB")


def _losses(axes: Any, runs: list[Measurement]) -> None:
    for run in runs:
        losses = run.losses or []
        # Similar loss curves overlap: with dashes the lower curve stays visible.
        style = {"standard": "-", "unsloth": "--", "stock": ":"}[run.contender]
        label = run.contender if run.repeat == 1 else None
        axes.plot(
            range(1, len(losses) + 1),
            losses,
            style,
            color=COLOURS[run.contender],
            marker="o",
            markersize=4,
            label=label,
        )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    legend_above(axes, columns=2)


def _name_rows(axes: Any, runs: list[Measurement]) -> None:
    repeated = any(run.repeat > 1 for run in runs)
    names = [f"{run.contender} {run.repeat}" if repeated else run.contender for run in runs]
    axes.set_yticks(range(len(runs)), names)
    axes.set_xlim(left=0)
    axes.invert_yaxis()


def _svg(number: int, draw: _Draw, runs: list[Measurement]) -> str:
    figure, axes = figure_with_axes(height=3.0 if draw is _losses else 0.9 + 0.42 * len(runs))
    draw(axes, runs)
    return inline_svg(figure, f"benchmark {number}")
