"""``deepsynth list`` and ``deepsynth ui``: the runs of a folder in the terminal, and in MLflow's UI."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from components.shared.artifacts.output_folder import unfinished_folders
from components.shared.artifacts.run_summary import RunSummary
from components.shared.errors import UserError
from components.shared.telemetry.terminal import output_console
from pipelines.local.resumed_run import FailedRun
from pipelines.local.runs_folder import CONFIG_FILE, FAILED

_STATES = {True: "running", False: "killed", None: "running or killed, on another host"}
_KEPT = "failed or interrupted"
_NOTHING_KEPT = "failed before a step finished"


@dataclass(frozen=True)
class ListedRun:
    """One line of the list: the run's name, its state, and what is known of its result."""

    name: str
    state: str
    verdict: str = "–"
    base_cer: str = "–"
    adapter_cer: str = "–"
    seconds: str = "–"


RunsDir = Annotated[Path, typer.Option(help="The folder of all runs and of their MLflow store.")]


def list_runs(runs_dir: RunsDir = Path("runs")) -> None:
    """List this machine's runs: their state, the gate's verdict, and the CER of base and adapter."""
    runs = sorted(listed(runs_dir), key=lambda run: run.name)
    if not runs:
        raise UserError("no runs yet", where=str(runs_dir), mend="start one with: deepsynth run")
    table = Table("run", "state", "verdict", "CER of the base", "of the adapter", "seconds")
    for run in runs:
        cells = (run.name, run.state, run.verdict, run.base_cer, run.adapter_cer, run.seconds)
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    output_console().print(table)
    if any(run.state.startswith(_KEPT) for run in runs):
        print("go on with one that did not end well: deepsynth run --resume RUN", file=sys.stderr)
    if any(run.state == _NOTHING_KEPT for run in runs):
        print(f"the log of a failed run: {runs_dir}/RUN{FAILED}.log", file=sys.stderr)


def ui(
    runs_dir: RunsDir = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on 127.0.0.1.")] = 5000,
) -> None:
    """Open the MLflow UI on the runs' store: loss curves, metrics, reports, packages."""
    from components.shared.tracking.mlflow_connection import missing_store, store_file
    from pipelines.local.mlflow_ui import open_when_it_answers, runs_page
    from pipelines.local.runs_folder import tracking_uri

    uri = tracking_uri(runs_dir)
    if store := missing_store(uri):
        raise UserError("no runs yet", where=str(store), mend="start one with: deepsynth run")
    if store_file(uri) is None:
        raise UserError(
            f"the runs are tracked at {uri}", where="MLFLOW_TRACKING_URI", mend="open that, or unset the variable"
        )
    address = f"http://127.0.0.1:{port}{runs_page(uri)}"
    output_console().print(f"MLflow UI: {address} (Ctrl-C ends it)", highlight=False, soft_wrap=True)
    sys.stdout.flush()
    open_when_it_answers(address, port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Its job workers serve GenAI evaluations: nine processes that a page of runs does not need.
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    os.execve(sys.executable, [*command, "--backend-store-uri", uri], variables)


def listed(runs_dir: Path) -> list[ListedRun]:
    """Return the runs of a folder; what is no run is passed over."""
    found = [
        ListedRun(one.target, _STATES[one.lives])
        for one in unfinished_folders(runs_dir)
        if (one.path / CONFIG_FILE).is_file()
    ]
    for path in runs_dir.glob("*/") if runs_dir.is_dir() else []:
        if (path / RunSummary.FILE).is_file():
            found.append(_finished(path))
        elif path.name.endswith(FAILED) and (path / CONFIG_FILE).is_file():
            steps = FailedRun(path, path / CONFIG_FILE).finished_steps()
            state = f"{_KEPT} after {', '.join(steps)}" if steps else _KEPT
            found.append(ListedRun(path.name.removesuffix(FAILED), state))
    names = {run.name for run in found}
    logs = (path.name.removesuffix(f"{FAILED}.log") for path in runs_dir.glob(f"*{FAILED}.log"))
    return found + [ListedRun(name, _NOTHING_KEPT) for name in logs if name not in names]


def _finished(folder: Path) -> ListedRun:
    try:
        summary = RunSummary.read(folder)
    except UserError as error:  # one of an older version is no reason to list none
        return ListedRun(folder.name, f"finished; {error.problem}")
    cer = {row.name: f"{row.cer:.2%}" for row in summary.rows}
    return ListedRun(
        folder.name,
        "finished",
        summary.gate.decision,
        cer.get("base", "–"),
        cer.get("adapter", "–"),
        f"{summary.seconds_total:.0f}",
    )
