"""The ``deepsynth`` command: run the pipeline locally or on a cluster, and inspect its runs."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from components.shared.errors import UserError
from components.shared.programs.machine_failures import named_failures
from components.shared.programs.step_config import StepConfig
from components.shared.telemetry.logs import configure_logs, exit_code_of, logs_are_json
from components.shared.telemetry.terminal import output_console
from pipelines.commands.adapters_command import adapters
from pipelines.commands.compare_command import compare
from pipelines.commands.compile_command import compile_pipeline
from pipelines.commands.doctor_command import doctor
from pipelines.commands.estimate_command import estimate, presets
from pipelines.commands.init_command import init
from pipelines.commands.list_command import list_runs
from pipelines.commands.logs_command import logs
from pipelines.commands.package_commands import push, register, verify
from pipelines.commands.retry_command import retry
from pipelines.commands.run_command import RunsDir, run
from pipelines.commands.schedule_command import schedule
from pipelines.commands.submit_command import follow, submit
from pipelines.settings.command_settings import checked_config

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


app.command()(run)
app.command("list")(list_runs)
app.command()(init)
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


if __name__ == "__main__":
    main()
