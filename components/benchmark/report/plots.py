"""The benchmark's plots, as SVG that takes the colours of the surrounding page."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from components.shared.artifacts.benchmark_report import Measurement

# Used on light and dark pages: each has a contrast of at least 3 to white and to #16191d.
COLOURS = {"standard": "#c2741a", "unsloth": "#2f80d8", "stock": "#8a6fb8"}
_INK = "#010203"  # placeholder for the colour of the surrounding text
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
    axes.set_xlabel("seconds", color=_INK)


def _memory(axes: Any, runs: list[Measurement]) -> None:
    for row, run in enumerate(runs):
        peak = run.peak_memory_bytes
        reserved, allocated = (peak.reserved or 0, peak.allocated or 0) if peak else (0, 0)
        axes.barh(row, reserved / _GIB, color=COLOURS[run.contender], height=0.6, alpha=0.35)
        axes.barh(row, allocated / _GIB, color=COLOURS[run.contender], height=0.6)
    _name_rows(axes, runs)
    axes.set_xlabel("GiB", color=_INK)


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
    axes.set_xlabel("optimizer step", color=_INK)
    axes.set_ylabel("loss", color=_INK)
    axes.legend(frameon=False, labelcolor=_INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _name_rows(axes: Any, runs: list[Measurement]) -> None:
    repeated = any(run.repeat > 1 for run in runs)
    names = [f"{run.contender} {run.repeat}" if repeated else run.contender for run in runs]
    axes.set_yticks(range(len(runs)), names)
    axes.set_xlim(left=0)
    axes.invert_yaxis()


def _svg(number: int, draw: _Draw, runs: list[Measurement]) -> str:
    rows = 3.0 if draw is _losses else 0.9 + 0.42 * len(runs)
    figure = Figure(figsize=(5.2, rows), layout="constrained")  # inches; small, so that its text is large on a phone
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    draw(axes, runs)
    axes.tick_params(colors=_INK)
    axes.grid(alpha=0.25, color=_INK)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    stream = io.StringIO()
    # Text is kept as text; ids are the same in every run and differ from those of the page's other plots.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"benchmark {number}"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
