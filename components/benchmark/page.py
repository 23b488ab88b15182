"""``benchmark.html``: the figures as a table and a bar plot, in one file without scripts or links."""

import io
from pathlib import Path

import jinja2

from components.benchmark.comparison import Comparison
from components.benchmark.config import BenchmarkConfig
from components.benchmark.contender import Measurement

_TEMPLATE = Path(__file__).with_name("benchmark.html.jinja")


def benchmark_page(config: BenchmarkConfig, comparison: Comparison) -> str:
    """Return the page's HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["mib"] = lambda count: "–" if count is None else f"{count / 2**20:,.0f} MiB"
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    ran = [run for run in comparison.measurements if run.status == "ok"]
    return template.render(config=config, comparison=comparison, plot=_bar_plot(ran))


def _bar_plot(runs: list[Measurement]) -> str:
    """Return an SVG of the median seconds per step, with every steady step as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.6 + 0.5 * len(runs)), layout="constrained")
    axes = figure.subplots()
    names = [f"{run.contender} #{run.repeat}" for run in runs]
    axes.barh(names, [run.median_step_seconds or 0.0 for run in runs], color="#4c72b0", height=0.6)
    for name, run in zip(names, runs, strict=True):
        steps = run.step_seconds or []
        axes.plot(steps, [name] * len(steps), "o", color="#dd8452", markersize=4, alpha=0.7)
    axes.set_xlabel("seconds per optimizer step (bar: median of steady steps, dots: all steps)")
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]
