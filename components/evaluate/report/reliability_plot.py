"""The reliability diagram: how many pages or lines were read well, by the probability that the confidence gave them."""

from components.shared.artifacts.confidence_calibration import ConfidenceCalibration
from components.shared.plots.inline_svg import INK, figure_with_axes, inline_svg

_LARGEST_DOT = 400.0  # square points; of a bin with all pages


def reliability_plot(calibration: ConfidenceCalibration, colour: str) -> str:
    """Return an inline ``<svg>`` with a dot for each bin, and the diagonal of a perfect calibration."""
    figure, axes = figure_with_axes(height=3.8)
    axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    bins = calibration.bins
    across, up = [100 * one.probability for one in bins], [100 * one.share for one in bins]
    axes.plot(across, up, color=colour, linewidth=2)
    sizes = [max(20.0, _LARGEST_DOT * one.count / calibration.count) for one in bins]
    axes.scatter(across, up, s=sizes, color=colour, zorder=3)
    axes.set_xlim(0, 102)
    axes.set_ylim(-3, 105)
    axes.set_xlabel(f"mean probability of the {calibration.unit}s (%)")
    axes.set_ylabel(f"{calibration.unit}s read well (%)")
    return inline_svg(figure, f"reliability of {calibration.unit}s")
