"""``compare.html``: the comparison in one file without scripts or links."""

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from pipelines.comparison.compared_run import ComparedRun
from pipelines.comparison.loss_plot import colour_of, loss_plot
from pipelines.comparison.paired_pages import RESAMPLES, Pairing
from pipelines.comparison.tables import Table, percent, points

_TEMPLATE = Path(__file__).with_name("comparison.html.jinja")


def comparison_page(runs: Sequence[ComparedRun], found: Sequence[Table], pairings: Sequence[Pairing]) -> str:
    """Return the page's HTML."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    plot = loss_plot(runs)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        runs=runs,
        tables=found,
        pairings=pairings,
        resamples=RESAMPLES,
        colours=[colour_of(position) for position in range(len(runs))],
        # matplotlib's output, which escapes the runs' names.
        plot=Markup(plot) if plot else None,
    )
