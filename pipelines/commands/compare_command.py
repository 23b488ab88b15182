"""``deepsynth compare``: compare finished runs in the terminal, in an HTML page, and as an MLflow artifact."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from components.shared.artifacts.output_file import check_output, written_file
from components.shared.errors import UserError, printable
from components.shared.telemetry.terminal import output_console
from components.shared.tracking.mlflow_connection import missing_store
from pipelines.comparison.compared_run import ComparedRun
from pipelines.comparison.local_runs import local_folder, read_local_run
from pipelines.comparison.paired_pages import Pairing, paired
from pipelines.comparison.tables import Table, percent, points, tables
from pipelines.comparison.tracked_runs import find_parent, read_tracked_run, store

COMPARISONS = "deepsynth-comparisons"
_NOT_TERMINAL_WIDTH = 160


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN ...",
            help="Finished runs: ids in --runs-dir, folders, MLflow run ids, or KFP run ids that MLflow knows.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write (.html).")] = Path("compare.html"),
    everything: Annotated[bool, typer.Option("--all", help="Also show what is equal.")] = False,
    log: Annotated[
        bool, typer.Option("--log", help=f"Save the page in MLflow, in the experiment {COMPARISONS}.")
    ] = False,
    runs_dir: Annotated[Path, typer.Option(help="The folder of all runs and of their MLflow store.")] = Path("runs"),
) -> None:
    """Compare finished runs: settings, data, figures with intervals, verdicts, losses, times.

    If runs evaluated the same pages, the first run's adapter is compared with each other run's adapter page by page.

    **Examples**

    - two local runs: `deepsynth compare 20261126-034012 20261126-041523`

    - a local run with a cluster run, saved in MLflow:
      `MLFLOW_TRACKING_URI=https://mlflow.example deepsynth compare runs/20261126-034012 4f1c…-b7 --log`
    """
    if len(runs) < 2:
        raise UserError("one run cannot be compared", where=" ".join(runs), mend="name two runs or more")
    check_output(output, "--output", ".html", ".htm")
    from components.shared.artifacts.output_folder import scratch_folder
    from pipelines.comparison.page import comparison_page
    from pipelines.local.runs_folder import tracking_uri

    uri = tracking_uri(runs_dir)
    with scratch_folder("deepsynth-compare") as scratch:
        compared = _read(runs, runs_dir, uri, scratch)
        pairings = [paired(compared[0], other) for other in compared[1:]]
        found = tables(compared, everything)
    with written_file(output) as partial:
        partial.write_text(comparison_page(compared, found, pairings), encoding="utf-8")
    console = output_console(_NOT_TERMINAL_WIDTH, highlight=False)
    _print(console, compared, found, pairings)
    console.print(f"{output} is ready", markup=False, highlight=False, soft_wrap=True)
    if log:
        console.print(_saved(uri, output, compared, pairings), markup=False, highlight=False, soft_wrap=True)


def _read(names: Sequence[str], runs_dir: Path, uri: str, scratch: Path) -> list[ComparedRun]:
    runs = []
    for number, name in enumerate(names):
        folder = local_folder(name, runs_dir)
        if folder:
            runs.append(read_local_run(folder))
            continue
        if missing_store(uri):
            raise UserError(
                "no such run",
                where=name,
                mend=f"it is neither a folder nor in {runs_dir}; for MLflow's runs, set MLFLOW_TRACKING_URI",
            )
        with store(uri) as client:
            parent = find_parent(client, name)
            if parent is None:
                raise UserError("no such run", where=name, mend=f"looked for it in {runs_dir} and in MLflow at {uri}")
            runs.append(read_tracked_run(client, parent, uri, scratch / str(number)))
    for number, run in enumerate(runs):
        if run.where in {other.where for other in runs[:number]}:
            raise UserError("the run is named twice", where=run.where, mend="name two different runs")
    return _with_unique_names(runs)


def _with_unique_names(runs: list[ComparedRun]) -> list[ComparedRun]:
    from dataclasses import replace

    names = [run.name for run in runs]
    return [replace(run, name=run.where) if names.count(run.name) > 1 else run for run in runs]


def _print(console: Console, runs: Sequence[ComparedRun], found: Sequence[Table], pairings: Sequence[Pairing]) -> None:
    for table in found:
        if not table.rows:
            console.print(Text(f"{table.title}: no difference is known; {table.note}\n"))
            continue
        shown = RichTable(title=table.title, title_justify="left", caption=table.note or None, caption_justify="left")
        shown.add_column("")
        for name in ("", *(run.name for run in runs)):
            shown.add_column(Text(printable(name)), overflow="fold")
        for row in table.rows:
            cells = ("≠" if row.differs else "", row.label, *row.cells)
            shown.add_row(*(Text(printable(cell)) for cell in cells))
        console.print(shown)
    for pairing in pairings:
        console.print(Text(printable(f"{pairing.first} against {pairing.other}")))
        for line in _lines(pairing):
            console.print(Text(printable(f"  {line}")), soft_wrap=True)


def _lines(pairing: Pairing) -> list[str]:
    if pairing.reason or pairing.signs is None:
        return [f"not paired: {pairing.reason}; each interval above is one run's own"]
    first, other, signs = pairing.first, pairing.other, pairing.signs
    lines = [f"paired over {pairing.pages} pages of {pairing.documents} documents"]
    if pairing.left_out:
        lines[0] += f"; {pairing.left_out} pages that only one of them evaluated are left out"
    for each in pairing.differences:
        figures = f"{percent(each.first)} - {percent(each.other)} = {points(each.difference, each.interval)} points"
        lines.append(f"{each.metric}: {figures}; {each.finding(first, other)}")
    return [
        *lines,
        f"sign test: {other} makes fewer character errors on {signs.better} pages, more on {signs.worse}, "
        f"as many on {signs.equal}; p = {signs.p_value:.3g}",
    ]


def _saved(uri: str, page: Path, runs: Sequence[ComparedRun], pairings: Sequence[Pairing]) -> str:
    """Log the page as an artifact of a new MLflow run; return its location."""
    from components.shared.tracking import mlflow_connection, tracking_runs

    with store(uri) as client:
        experiment = tracking_runs.experiment(client, uri, COMPARISONS)
        names = " against ".join(run.name for run in runs)
        title = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S} {names}"[:250]
        tags = {"deepsynth.step": "compare", "deepsynth.compared": "\n".join(run.where for run in runs)}
        run = client.create_run(experiment, run_name=title, tags=tags).info
        status = "FAILED"
        try:
            for pairing in pairings:
                for each in pairing.differences:
                    key = f"{each.metric.replace(' ', '_').lower()}_difference_to_{pairing.other}"
                    client.log_metric(run.run_id, _metric_name(key), each.difference)
            mlflow_connection.transferred(
                lambda: client.log_artifact(run.run_id, str(page)), f"the upload of {page.name}"
            )
            status = "FINISHED"
        finally:
            client.set_terminated(run.run_id, status=status)
    return f"saved in MLflow: experiment {COMPARISONS}, run {run.run_id} ({title})"


def _metric_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in text)[:250]
