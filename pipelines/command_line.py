"""The ``deepsynth`` command: run the pipeline locally or on a cluster, and inspect its runs."""

import datetime
import json
import os
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.shared.errors import UserError
from components.shared.programs.machine_failures import named_failures
from components.shared.programs.step_config import StepConfig
from components.shared.telemetry.logs import configure_logs, exit_code_of, logs_are_json
from components.shared.telemetry.terminal import output_console
from components.shared.telemetry.tracing import pipeline_span
from pipelines.commands.adapters_command import adapters
from pipelines.commands.compare_command import compare
from pipelines.commands.compile_command import PreparePartitions, compile_pipeline
from pipelines.commands.doctor_command import doctor
from pipelines.commands.estimate_command import estimate, presets
from pipelines.commands.logs_command import logs
from pipelines.commands.package_commands import push, register, verify
from pipelines.commands.retry_command import retry
from pipelines.commands.schedule_command import schedule
from pipelines.commands.submit_command import follow, submit
from pipelines.settings.command_settings import checked_config

if TYPE_CHECKING:
    from pipelines.local.docker_run import DockerRun
    from pipelines.local.resumed_run import FailedRun

EXIT_CODE_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Fine-tune an OCR model on your documents, and measure whether it got better.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from pipelines.definition.environment import code_tag

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


class Runner(StrEnum):
    """Where the steps of a local run execute."""

    SUBPROCESS = "subprocess"
    DOCKER = "docker"


RunsDir = Annotated[Path, typer.Option(help="The folder of all runs and of their MLflow store.")]


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Option(help="A YAML or JSON file. Default: the quickstart's settings.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one setting. May be repeated."),
    ] = None,
    runner: Annotated[
        Runner,
        typer.Option(help="subprocess: each step in a process of this Python; docker: each in a container, as you."),
    ] = Runner.SUBPROCESS,
    image: Annotated[
        str | None,
        typer.Option(
            envvar="DEEPSYNTH_IMAGE",
            help="--runner docker: the steps' image. Default: what `make images` built from this code.",
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    run_id: Annotated[str | None, typer.Option(help="The run's name. Default: the time in UTC.")] = None,
    prepare_partitions: PreparePartitions = 1,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run that failed or was interrupted: with its settings, its finished steps' outputs,"
            " and its training's last checkpoint.",
        ),
    ] = None,
) -> None:
    """Run the whole pipeline on this machine, from documents to adapter, evaluation and package.

    **Examples**

    - the quickstart, without network or GPU: `deepsynth run`

    - your own documents: `deepsynth run --set source=scans/texts --set prepare.max_documents=500`

    - another model and another learning rate:
      `deepsynth run --set base_model=deepseek-community/DeepSeek-OCR-2 --set train.learning_rate=1e-4`

    - a settings file: `deepsynth config > my.yaml`, edit, `deepsynth run --config my.yaml`

    - in containers, with the machine's GPU if it has one: `make images`, `deepsynth run --runner docker`

    - after a failure, or Ctrl-C: `deepsynth run --resume 20261129-101500`

    The results are in `runs/<id>/`; `deepsynth config` lists every key with its meaning and default.
    """
    from components.shared.tracking.pipeline_run import kill_pipeline_run
    from pipelines.local.local_runner import run_pipeline
    from pipelines.local.run_summary import print_summary
    from pipelines.local.runs_folder import FAILED, tracking_uri

    resumed = _resumed_run(runs_dir, resume, config, set_, run_id) if resume else None
    checked = checked_config(resumed.config if resumed else config, set_ or [])
    name = resume or run_id or datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError("may hold letters, digits, dots, - and _ only", where=f"--run-id {name!r}")
    if name.endswith(FAILED):
        raise UserError(f"must not end in {FAILED}, which marks a failed run's folder", where=f"--run-id {name!r}")
    try:
        docker = _docker_run(name, runs_dir, image) if runner is Runner.DOCKER else None
        with pipeline_span(name, "deepsynth-finetune"):
            # A dataset that is taken over is there as a whole: no partitions.
            outcome = run_pipeline(checked, runs_dir, name, 1 if resumed else prepare_partitions, docker, resumed)
    except KeyboardInterrupt as interrupt:
        kill_pipeline_run(name, tracking_uri(runs_dir))
        notes = getattr(interrupt, "__notes__", []) or ["no step had finished, and nothing was kept"]
        print("interrupted", *notes, sep="\n", file=sys.stderr)
        raise typer.Exit(EXIT_CODE_INTERRUPTED) from interrupt
    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_summary(outcome.summary, outcome.folder, tracking_uri(runs_dir), output_console())


def _resumed_run(
    runs_dir: Path, resume: str, config: Path | None, set_: list[str] | None, run_id: str | None
) -> "FailedRun":
    from pipelines.local.resumed_run import failed_run

    if config or set_ or run_id:
        raise UserError(
            "a resumed run has its own settings and its own name",
            where="--resume",
            mend="leave out --config, --set and --run-id, or start a new run with them",
        )
    resumed = failed_run(runs_dir, resume)
    print(f"resumed: {', '.join(resumed.finished_steps()) or 'no step'} finished before", file=sys.stderr)
    return resumed


def _docker_run(run_id: str, runs_dir: Path, image: str | None) -> "DockerRun":
    from pipelines.local.docker_run import docker_run

    run = docker_run(run_id, runs_dir.absolute(), image)
    for warning in run.images.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return run


@app.command("config")
def show_config(
    config: Annotated[Path | None, typer.Option(help="A YAML or JSON file. Default: the quickstart's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")] = None,
) -> None:
    """Print every setting with its meaning, as YAML for `deepsynth run --config`."""
    print("\n".join(_commented_lines(checked_config(config, set_ or []))))


@app.command()
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
    os.execv(sys.executable, [*command, "--backend-store-uri", uri])


app.command("compile")(compile_pipeline)
app.command()(submit)
app.command()(follow)
app.command()(logs)
app.command()(retry)
app.command()(doctor)
app.add_typer(schedule, name="schedule")
app.command()(estimate)
app.command()(presets)
app.command()(compare)
app.command()(verify)
app.command()(register)
app.command()(push)
app.add_typer(adapters, name="adapters")


def main() -> None:
    """Run the command line. Errors that the user can fix print one line and exit with code 2."""
    from pipelines.local.local_runner import StepFailedError

    try:
        with named_failures("deepsynth"):
            if logs_are_json():
                configure_logs()
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


def _commented_lines(config: StepConfig, indent: str = "") -> list[str]:
    lines = []
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if info.description:
            lines.append(f"{indent}# {' '.join(info.description.split())}")
        if isinstance(value, StepConfig):
            lines += [f"{indent}{name}:", *_commented_lines(value, indent + "  ")]
        else:
            text = json.dumps(config.model_dump(mode="json", include={name})[name], ensure_ascii=False)
            lines.append(f"{indent}{'# ' if _is_left_open(config, name) else ''}{name}: {text}")
    return lines


def _is_left_open(config: StepConfig, name: str) -> bool:
    """Return whether to leave an unset value out of the file: the machine or a preset decides it."""
    from components.train.presets import presets

    if name in config.model_fields_set:
        return False
    set_by_presets = {key for preset in presets().values() for key in preset.settings}
    fields = type(config).model_fields
    return fields[name].default_factory is not None or ("preset" in fields and name in set_by_presets)
