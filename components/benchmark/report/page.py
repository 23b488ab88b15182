"""``benchmark.html``: one row per contender, ratios and plots, in one file without scripts or links."""

from pathlib import Path

import jinja2
from markupsafe import Markup

from components.benchmark.config import BenchmarkConfig
from components.benchmark.report.plots import COLOURS, plots
from components.shared.artifacts.benchmark_report import BenchmarkReport

_TEMPLATE = Path(__file__).with_name("benchmark.html.jinja")

TRAINING = {
    "median_step_seconds": "s/step",
    "samples_per_second": "pages/s",
    "tokens_per_second": "tokens/s",
    "data_wait_share": "waiting for data",
    "peak_allocated_bytes": "peak allocated",
    "peak_reserved_bytes": "peak reserved",
    "peak_resident_bytes": "peak resident",
    "startup_seconds": "start-up, s",
    "compile_seconds": "of it compiling, s",
    "final_loss": "last loss",
}
"""Quantity -> its name in the table."""
BEYOND_TRAINING = {
    "cer": "CER",
    "generated_tokens_per_second": "generated tokens/s",
    "generated_pages_per_second": "generated pages/s",
    "graphed_tokens_per_second": "with recorded steps",
    "graphed_pages_per_second": "with recorded steps, pages/s",
    "first_token_seconds": "first token, s",
    "largest_batch": "largest batch",
    "largest_batch_samples_per_second": "its pages/s",
    "longest_context": "longest context",
}
PROBE_NAMES = {
    "reading": "CER",
    "generation": "generation speed",
    "largest_batch": "largest batch",
    "longest_context": "longest context",
}
_COUNTS = {"largest_batch", "longest_context"}
_NO_BREAK = "\N{NO-BREAK SPACE}"


def benchmark_page(config: BenchmarkConfig, comparison: BenchmarkReport) -> str:
    """Return the page's HTML."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = shown
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    ran = [run for run in comparison.measurements if run.status == "ok"]
    ran.sort(key=lambda run: (config.contenders.index(run.contender), run.repeat))
    measured = {name for row in comparison.contenders for name in row.figures}
    return template.render(
        config=config,
        comparison=comparison,
        colours=COLOURS,
        tables=[
            (title, {name: label for name, label in columns.items() if name in measured})
            for title, columns in (("Training", TRAINING), ("Reading, and what the memory holds", BEYOND_TRAINING))
        ],
        names={**TRAINING, **BEYOND_TRAINING},
        probe_names=PROBE_NAMES,
        # Safe as Markup: matplotlib's output, drawn only from numbers and the contenders' names.
        plots=[(caption, Markup(svg)) for caption, svg in plots(ran, config.warmup_steps)],
    )


def shown(quantity: str, value: float) -> str:
    r"""Return one value with its unit, rounded to the digits that are useful to a reader.

    >>> shown("peak_reserved_bytes", 3 * 2**29), shown("median_step_seconds", 0.33149), shown("tokens_per_second", 9876)
    ('1.50\xa0GiB', '0.331', '9,876')
    >>> shown("cer", 0.0123), shown("largest_batch", 21.0)
    ('1.23\xa0%', '21')
    """
    if quantity.endswith("_bytes"):
        return f"{value / 2**30:.2f}{_NO_BREAK}GiB"
    if quantity in ("cer", "data_wait_share"):
        return f"{100 * value:.2f}{_NO_BREAK}%"
    if quantity in _COUNTS or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
