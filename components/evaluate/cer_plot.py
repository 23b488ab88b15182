"""The distribution of the pages' CER as an SVG picture that takes the colours of the page around it."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# The same in light and dark: each has a contrast of at least 3 to white and to #16191d.
COLOURS = {"base": "#c2741a", "adapter": "#2f80d8", "tesseract": "#7d8590"}
_INK = "#010203"  # stands for the colour of the surrounding text


def cer_plot(rates: dict[str, Sequence[float]]) -> str:
    """Return an inline ``<svg>``: for each model, the share of pages whose CER is at most x.

    Pages with a CER above 1 are beyond the right edge, so that a line may end below 100 %.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, values in rates.items():
        ordered = np.sort(np.asarray(values, float))
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        # A step line from (0, 0) to the right edge.
        points = np.concatenate([[0.0], ordered, [max(1.0, ordered[-1])]])
        heights = np.concatenate([[0.0], shares, [1.0]])
        axes.step(points, 100 * heights, where="post", label=name, color=COLOURS.get(name, _INK), linewidth=2)
    # The largest error below 1 ends the axis: a good model's line is not squeezed against the left edge.
    largest = max(max(values) for values in rates.values())
    axes.set_xlim(0, min(1.0, max(0.05, largest * 1.05)))
    axes.set_ylim(0, 102)
    axes.set_xlabel("CER of a page", color=_INK)
    axes.set_ylabel("pages at or below it (%)", color=_INK)
    axes.tick_params(colors=_INK)
    axes.grid(alpha=0.25, color=_INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    axes.legend(frameon=False, labelcolor=_INK, loc="lower right")
    stream = io.StringIO()
    # Text stays text, and the ids are the same in every run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cer"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
