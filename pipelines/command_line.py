"""The ``deepsynth`` command: run the pipeline locally or on a cluster, and inspect its runs."""

import sys
from typing import Annotated

import typer

from components.shared.errors import StepFailedError, UserError
from components.shared.programs.machine_failures import named_failures
from components.shared.telemetry.logs import configure_logs, exit_code_of, logs_are_json, show_warnings
from pipelines.lazy_commands import MARKUP, LazyCommand, lazy_group

COMMANDS = [
    LazyCommand(
        "run",
        "pipelines.commands.run_command:run",
        "Run the whole pipeline on this machine, from documents to adapter, evaluation and package.",
    ),
    LazyCommand(
        "list",
        "pipelines.commands.runs_commands:list_runs",
        "List this machine's runs: their state, the gate's verdict, and the CER of base and adapter.",
    ),
    LazyCommand(
        "ui",
        "pipelines.commands.runs_commands:ui",
        "Open the MLflow UI on the runs' store: loss curves, metrics, reports, packages.",
    ),
    LazyCommand(
        "compare",
        "pipelines.commands.compare_command:compare",
        "Compare finished runs: settings, data, figures with intervals, verdicts, losses, times.",
    ),
    LazyCommand(
        "init",
        "pipelines.commands.settings_commands:init",
        "Write a settings file with the keys that most runs change; `deepsynth config` prints all keys.",
    ),
    LazyCommand(
        "config",
        "pipelines.commands.settings_commands:show_config",
        "Print every setting with its meaning, as YAML for `deepsynth run --config`.",
    ),
    LazyCommand(
        "presets",
        "pipelines.commands.estimate_command:presets",
        "Print the training presets: named sets of settings.",
    ),
    LazyCommand(
        "estimate",
        "pipelines.commands.estimate_command:estimate",
        "Predict a training's memory from the model's config alone, without weights or a GPU.",
    ),
    LazyCommand(
        "export",
        "pipelines.commands.export_command:export",
        "Pack the adapter of a finished run that the gate did not promote.",
    ),
    LazyCommand(
        "verify",
        "pipelines.commands.package_commands:verify",
        "Recompute every digest of a package's lineage, and report what differs and what could not be checked.",
    ),
    LazyCommand(
        "register",
        "pipelines.commands.package_commands:register",
        "Register a finished package as the next version of a model in the MLflow registry (MLFLOW_TRACKING_URI).",
    ),
    LazyCommand(
        "adapters",
        "pipelines.commands.adapters_command:adapters",
        "List, compare, name and delete the adapters in the MLflow model registry.",
    ),
    LazyCommand(
        "push",
        "pipelines.commands.package_commands:push",
        "Upload a finished package to the Hugging Face hub, with the token in HF_TOKEN.",
    ),
    LazyCommand(
        "read",
        "pipelines.reading.read_command:read",
        "Read pictures, folders and PDFs, and print their text.",
    ),
    LazyCommand(
        "serve",
        "pipelines.reading.serve_command:serve",
        "Read pages over HTTP on this machine: an OpenAI-compatible API, and `/v1/ocr` for files.",
    ),
    LazyCommand(
        "samples",
        "pipelines.reading.samples_command:samples",
        "List, correct, compare and delete the pages that a service has kept.",
    ),
    LazyCommand(
        "compile",
        "pipelines.commands.compile_command:compile_pipeline",
        "Compile the pipeline to KFP's IR YAML.",
    ),
    LazyCommand(
        "doctor",
        "pipelines.commands.doctor_command:doctor",
        "Check a cluster for what a run needs: KFP, the account and its rights, volumes, images, GPUs, MLflow.",
    ),
    LazyCommand(
        "submit",
        "pipelines.commands.submit_command:submit",
        "Start a run of the pipeline on a Kubeflow Pipelines server.",
    ),
    LazyCommand(
        "follow",
        "pipelines.commands.submit_command:follow",
        "Follow a run on a cluster to its end, like `deepsynth submit --wait`, and print its result table.",
    ),
    LazyCommand(
        "logs",
        "pipelines.commands.logs_command:logs",
        "Print the log of one step of a run on a cluster, without the lines of KFP's launcher and drivers.",
    ),
    LazyCommand(
        "retry",
        "pipelines.commands.retry_command:retry",
        "Run the failed steps of a run again, with the same settings and images, and follow the run to its end.",
    ),
    LazyCommand(
        "schedule",
        "pipelines.commands.schedule_command:schedule",
        "Schedule runs on a cluster: create, list, pause, resume, delete.",
    ),
]
"""Each help is the first paragraph of the command's own (a test compares them): listing imports no command."""

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    help="Fine-tune an OCR model on your documents, and measure whether it got better.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from components.shared.versions import code_tag

        print(code_tag())
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print version-commit, the tag of this code's images.",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Errors that the user can fix print one line and exit with code 2."""
    try:
        with named_failures("deepsynth"):
            if logs_are_json():
                configure_logs()
            else:
                show_warnings()
            app(standalone_mode=True)
    except UserError as error:
        exit_code = exit_code_of(error)
        _end(error, exit_code)
    except StepFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        _end(error, 1)


def _end(error: Exception, exit_code: int) -> None:
    for note in getattr(error, "__notes__", []):
        print(note, file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
