"""The runs' losses as an SVG picture in the colours of the surrounding page."""

from collections.abc import Sequence

from components.shared.plots.inline_svg import figure_with_axes, inline_svg, legend_above
from pipelines.comparison.compared_run import ComparedRun

# For light and dark pages: each has a contrast of at least 3 to white and to #16191d.
COLOURS = ("#2f80d8", "#c2741a", "#2f8f5b", "#a05ac8", "#c94f6d", "#7d8590")
_DASHES = ("-", "--", ":", "-.")


def colour_of(position: int) -> str:
    """Return the colour of the run at ``position`` in the comparison's order."""
    return COLOURS[position % len(COLOURS)]


def loss_plot(runs: Sequence[ComparedRun]) -> str | None:
    """Return an inline ``<svg>``; None where no run's training is known."""
    drawn = [(position, run) for position, run in enumerate(runs) if run.files.training and run.files.training.losses]
    if not drawn:
        return None
    figure, axes = figure_with_axes(height=3.2)
    for position, run in drawn:
        assert run.files.training
        steps, losses = run.files.training.loss_steps, run.files.training.losses
        # Equal trainings have equal lines: with dashes both stay visible.
        style = _DASHES[position % len(_DASHES)]
        axes.plot(steps, losses, style, color=colour_of(position), linewidth=2, label=run.name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    legend_above(axes, columns=2)
    return inline_svg(figure, "comparison")
