"""The distribution of the pages' CER as an SVG picture in the colours of the surrounding page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.shared.plots.inline_svg import INK, figure_with_axes, inline_svg, legend_above

# For light and dark pages: each has a contrast of at least 3 to white and to #16191d.
COLOURS = {
    "base": "#c2741a",
    "adapter": "#2f80d8",
    "champion": "#a05ac8",
    "tesseract": "#7d8590",
    "rapidocr": "#2f8f5b",
}
_DASHED = {"champion"}  # it can be the same model as the adapter and would hide its line
_LEGEND_COLUMNS = 3


def cer_plot(rates: dict[str, Sequence[float]]) -> str:
    """Return an inline ``<svg>``: for each model, the share of pages whose CER is at most x.

    A CER above 1 (more errors than the label has characters) is drawn at 1.
    """
    figure, axes = figure_with_axes(height=3.4)
    for name, values in rates.items():
        ordered = np.sort(np.minimum(values, 1.0))
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        # A step line from (0, 0) to the right edge.
        points = np.concatenate([[0.0], ordered, [1.0]])
        heights = np.concatenate([[0.0], shares, [1.0]])
        line = (0, (3, 2)) if name in _DASHED else "solid"
        style: dict[str, Any] = {"color": COLOURS.get(name, INK), "linestyle": line}
        axes.step(points, 100 * heights, where="post", label=name, linewidth=2, **style)
    # The axis ends at the largest error, so that a good model's line is not squeezed against the left edge.
    largest = max(max(values) for values in rates.values())
    axes.set_xlim(0, min(1.01, max(0.05, largest * 1.05)))
    axes.set_ylim(0, 102)
    axes.set_xlabel("CER of a page" + (" (1: or more)" if largest > 1 else ""))
    axes.set_ylabel("pages at or below it (%)")
    legend_above(axes, columns=min(len(rates), _LEGEND_COLUMNS))
    return inline_svg(figure, "cer")
