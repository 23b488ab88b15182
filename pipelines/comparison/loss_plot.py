"""The runs' losses as an SVG picture in the colours of the surrounding page."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pipelines.comparison.compared_run import ComparedRun

# For light and dark pages: each has a contrast of at least 3 to white and to #16191d.
COLOURS = ("#2f80d8", "#c2741a", "#2f8f5b", "#a05ac8", "#c94f6d", "#7d8590")
_DASHES = ("-", "--", ":", "-.")
_INK = "#010203"  # stands for the colour of the surrounding text


def colour_of(position: int) -> str:
    """Return the colour of the run at ``position`` in the comparison's order."""
    return COLOURS[position % len(COLOURS)]


def loss_plot(runs: Sequence[ComparedRun]) -> str | None:
    """Return an inline ``<svg>``; None where no run's training is known."""
    drawn = [(position, run) for position, run in enumerate(runs) if run.files.training and run.files.training.losses]
    if not drawn:
        return None
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")  # inches; small, so that the text is readable on a phone
    FigureCanvasSVG(figure)
    axes: Any = figure.add_subplot()
    for position, run in drawn:
        assert run.files.training
        steps, losses = run.files.training.loss_steps, run.files.training.losses
        # Equal trainings have equal lines: with dashes both stay visible.
        style = _DASHES[position % len(_DASHES)]
        axes.plot(steps, losses, style, color=colour_of(position), linewidth=2, label=run.name)
    axes.set_xlabel("optimizer step", color=_INK)
    axes.set_ylabel("training loss", color=_INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=_INK)
    axes.grid(alpha=0.25, color=_INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    # Above the axes: inside, it would hide a line.
    axes.legend(frameon=False, labelcolor=_INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    stream = io.StringIO()
    # Text stays text, and ids are reproducible.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "comparison"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
