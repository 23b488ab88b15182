"""Matplotlib figures as inline ``<svg>`` that takes the text colour of the page around it, light or dark."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"
"""stands for the colour of the surrounding text"""
_WIDTH = 5.2
"""inches: narrow, so that the text is readable on a phone"""


def figure_with_axes(height: float) -> tuple[Figure, Any]:
    """Return a figure of ``height`` inches, and its axes."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def legend_above(axes: Any, columns: int) -> None:
    """Put the legend above the axes: inside, it could hide a line."""
    axes.legend(frameon=False, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)


def inline_svg(figure: Figure, name: str) -> str:
    """Return a figure as ``<svg>`` in the page's colours: text stays text.

    Args:
        figure: its axes, ticks and grid get the colour of the surrounding text.
        name: of the plot; ids in the picture depend on it and are the same each time it is drawn.
    """
    for axes in figure.axes:
        _take_the_pages_colours(axes)
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _take_the_pages_colours(axes: Any) -> None:
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.tick_params(colors=INK)
    axes.grid(alpha=0.25, color=INK)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
