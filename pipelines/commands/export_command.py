"""``deepsynth export``: pack the adapter of a finished run that the gate did not promote."""

import os
from pathlib import Path
from typing import Annotated

import typer

from components.shared.errors import UserError
from components.shared.telemetry.terminal import output_console
from pipelines.commands.runs_commands import RunsDir
from pipelines.local.runs_folder import CONFIG_FILE, FOLDERS
from pipelines.settings.command_settings import checked_config, parsed_setting

_SECTION = "export."


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's name: deepsynth list shows them.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the step, e.g. export.merge=true."),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Pack the adapter of a finished run that the gate did not promote.

    The package is marked: its card begins with the gate's decision and reason, its tags and its lineage have them too,
    and if it is registered (`export.register_as`), it becomes challenger and never champion.

    **Example**: `deepsynth export 20261129-101500`
    """
    folder = runs_dir / run
    package = folder / FOLDERS["export"]
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            "no finished run of this name",
            where=str(folder),
            mend="deepsynth list shows the runs; finish one that failed with deepsynth run --resume RUN",
        )
    if package.exists():
        raise UserError("this run has its package already", where=str(package), mend="use it, or remove the folder")
    for setting in set_ or []:
        key, _ = parsed_setting(setting)
        if not key.startswith(_SECTION):
            raise UserError(
                "only the settings of the export step can change now",
                where=f"--set {setting}",
                mend="begin with export.",
            )
    _packed(folder, run, set_ or [], runs_dir)


def _packed(folder: Path, run: str, settings: list[str], runs_dir: Path) -> None:
    from components.export.config import ExportConfig
    from components.export.step import run as run_export
    from components.shared.artifacts.gate_verdict import GateVerdict
    from components.shared.programs.step_config import validated
    from components.shared.tracking.pipeline_run import close_pipeline_run
    from pipelines.local.runs_folder import tracking_uri

    verdict = GateVerdict.read(folder / FOLDERS["gate"])
    values = checked_config(folder / CONFIG_FILE, settings).step_settings("export") | {
        "dataset_dir": folder / FOLDERS["prepare"],
        "adapter_dir": folder / FOLDERS["train"],
        "evaluation_dir": folder / FOLDERS["evaluate"],
        "gate_dir": folder / FOLDERS["gate"],
        "output_dir": folder / FOLDERS["export"],
    }
    # The package belongs to that run: in its lineage, and below its parent in the same MLflow store.
    os.environ.update({"MLFLOW_TRACKING_URI": tracking_uri(runs_dir), "KFP_RUN_ID": run})
    try:
        result = run_export(validated(ExportConfig, values, "export"))
    finally:
        close_pipeline_run("SUCCEEDED", {})
    console = output_console()
    for line in (f"{verdict.decision + ':':<14}{verdict.reason}", f"{'package:':<14}{result.archive}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if result.registered:
        console.print(f"{'registered:':<14}{result.registered}", markup=False, highlight=False, soft_wrap=True)
