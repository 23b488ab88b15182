"""``deepsynth submit``: start a run on a cluster; ``deepsynth follow``: watch one."""

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.shared.errors import EXIT_CODE_INTERRUPTED, UserError, printable
from components.shared.telemetry.terminal import output_console
from pipelines.commands.cluster_options import (
    ConfigFile,
    EnvironmentFile,
    Experiment,
    Host,
    PreparePartitions,
    Settings,
    Skip,
    cluster_environment,
    connected,
    settings_of,
)

if TYPE_CHECKING:
    from pipelines.cluster.kfp_api import KfpApi
    from pipelines.definition.environment import Environment
    from pipelines.following.diagnosis import Ending
    from pipelines.settings.pipeline_config import SharedSettings

EXIT_CODE_RUN_FAILED = 1
_SECONDS_BETWEEN_LOOKS = 5.0

NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Run every step, e.g. if artifacts that KFP's cache names were deleted.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the settings, ask the server, say what would run; start nothing.")
]
PollSeconds = Annotated[float, typer.Option(min=0.05, help="Seconds between two polls of the run.")]


def submit(
    host: Host = None,
    environment: EnvironmentFile = None,
    config: ConfigFile = None,
    set_: Settings = None,
    experiment: Experiment = None,
    run_name: Annotated[
        str | None, typer.Option(help="The run's name. Default: the time in UTC and the config's name.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end and print the result table.")] = False,
    skip_if_unchanged: Annotated[
        bool,
        typer.Option("--skip-if-unchanged", help="Skip training if the champion was trained on the same documents."),
    ] = False,
    prepare_partitions: PreparePartitions = 1,
    no_cache: NoCache = False,
    skip: Skip = None,
    dry_run: DryRun = False,
    poll_seconds: PollSeconds = _SECONDS_BETWEEN_LOOKS,
) -> None:
    """Start a run of the pipeline on a Kubeflow Pipelines server.

    The pipeline of this code is uploaded as a version named by the images' tag (version-commit), or an equal version is
    reused. Images with that tag must be in the registry: run `make images` and push them.

    Credentials are read from the environment: `KFP_TOKEN`, `KFP_COOKIES`, `KF_PIPELINES_SA_TOKEN_PATH`, `KFP_CA_CERT`.

    **Examples**

    - `deepsynth submit --environment manifests/environments/production.yaml --config my.yaml --wait`

    - before a long one: `deepsynth submit --dry-run --environment production.yaml --config my.yaml`

    - one setting changed, on another server:
      `deepsynth submit --host https://kfp.example.com --environment production.yaml --set train.max_steps=500`

    Exit codes with `--wait`: 0: the run succeeded (even if the gate did not promote); 1: it failed; 130: Ctrl-C, and
    the run continues; 2: nothing was started, or the server did not answer for ten minutes.
    """
    from pipelines.cluster.cluster_runs import start_run

    settings = cluster_environment(environment, experiment)
    parameters = run_parameters(settings, config, settings_of(set_, skip), skip_if_unchanged)
    api = connected(host, settings)
    if dry_run:
        _show_plan(api, settings, parameters, prepare_partitions, cache=not no_cache)
        return
    parameters["run_pages"] = api.run_page("")
    version = uploaded_version(api, settings, prepare_partitions, cache=not no_cache)
    name = run_name or f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{config.stem if config else 'quickstart'}"
    run_id = start_run(api, settings, version, name, parameters)
    print(f"run {name} ({run_id}): {api.run_page(run_id)}")
    _print_expected_time(settings, parameters)
    if wait:
        follow_to_the_end(api, settings, run_id, poll_seconds, environment)
    else:
        print(f"follow it with: {_follow_command(api, run_id, environment)}")


def follow(
    run_id: Annotated[str, typer.Argument(help="The run's id, as submit printed it.")],
    host: Host = None,
    environment: EnvironmentFile = None,
    poll_seconds: PollSeconds = _SECONDS_BETWEEN_LOOKS,
) -> None:
    """Follow a run on a cluster to its end, like `deepsynth submit --wait`, and print its result table.

    **Example**: `deepsynth follow 0b9b6b0c-4f0f-4ac5-9c58-1f1e35b4e7a1 --environment production.yaml`
    """
    settings = cluster_environment(environment)
    follow_to_the_end(connected(host, settings), settings, run_id, poll_seconds, environment)


def run_parameters(
    environment: "Environment", config: Path | None, settings: list[str], skip_if_unchanged: bool
) -> dict[str, Any]:
    """Return the run's pipeline parameters from a checked configuration; warn of local paths, which no pod has."""
    from pipelines.settings.command_settings import checked_config
    from pipelines.settings.parameter_text import parameter_text

    checked = checked_config(config, settings, runs_here=False, checkpoints=environment.checkpoints is not None)
    if checked.source.startswith(("./", "../", "~")) or (Path(checked.source).exists() and ":" not in checked.source):
        print(
            f"note: source {checked.source!r} is a path inside the tasks' containers; mount a claim there"
            " (volumes in the environment) and give the path below its mount_path",
            file=sys.stderr,
        )
    text = parameter_text(checked.model_dump(mode="json", exclude_unset=True))
    return {"config": text, "skip_if_unchanged": skip_if_unchanged}


def _sent_config(parameters: dict[str, Any]) -> "SharedSettings":
    from components.shared.programs.step_config import parse_config_text
    from pipelines.settings.pipeline_config import pipeline_config

    return pipeline_config(parse_config_text(parameters["config"], "config"), "config", runs_here=False)


def _show_plan(
    api: "KfpApi", environment: "Environment", parameters: dict[str, Any], prepare_partitions: int, *, cache: bool
) -> None:
    from pipelines.planning.dry_submission import planned_submission

    config = _sent_config(parameters)
    for line in planned_submission(api, environment, config, prepare_partitions, cache=cache):
        output_console().print(line, markup=False, highlight=False, soft_wrap=True)
    _print_expected_time(environment, parameters)


def _print_expected_time(environment: "Environment", parameters: dict[str, Any]) -> None:
    """Print how long an earlier run's training with these settings took, if MLflow answers and has one."""
    from components.shared.tracking import mlflow_connection
    from pipelines.cluster.earlier_trainings import earlier_training

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri or uri.lower() == mlflow_connection.TRACKING_OFF or mlflow_connection.missing_store(uri):
        return
    try:
        found = earlier_training(_sent_config(parameters), uri, environment.mlflow_experiment)
    except mlflow_connection.store_errors() as error:
        print(f"note: no time estimate: MLflow does not answer ({mlflow_connection.reason(error)})", file=sys.stderr)
        return
    print(found or "no earlier run in MLflow has these settings: the training tells its time after step 4")


def uploaded_version(api: "KfpApi", environment: "Environment", prepare_partitions: int, *, cache: bool = True) -> Any:
    """Upload the pipeline of this code, and print which version the run uses."""
    from pipelines.cluster.pipeline_package import uncommitted_changes, upload

    if environment.tag is None and uncommitted_changes():
        note = f"note: this code has uncommitted changes, which the images {environment.version} lack"
        print(note, file=sys.stderr)
    version = upload(api, environment, prepare_partitions, cache=cache)
    print(f"pipeline version {version.name}: {'the one that is there' if version.reused else 'uploaded'}")
    return version


def follow_to_the_end(
    api: "KfpApi", environment: "Environment", run_id: str, seconds: float, file: Path | None
) -> None:
    """Follow a run, and print its result table, or why it did not succeed with the last lines of the step's log.

    Raises:
        UserError: no such run, or the server was lost.
        typer.Exit: the run did not succeed, or Ctrl-C.
    """
    from pipelines.cluster.cluster_results import print_results
    from pipelines.following.diagnosis import Diagnosis
    from pipelines.following.followed_run import follow_run
    from pipelines.following.progress import RunningSteps
    from pipelines.following.run_sources import RunSources
    from pipelines.following.workflow_nodes import was_cancelled

    def say(text: str) -> None:
        print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)

    sources = RunSources(api, environment, run_id, say)
    diagnosis = Diagnosis(sources, environment)
    command = _follow_command(api, run_id, file)
    try:
        run = follow_run(api, run_id, diagnosis, RunningSteps(sources), say, seconds)
    except KeyboardInterrupt as interrupt:
        print(f"the run goes on; follow it with: {command}", file=sys.stderr)
        raise typer.Exit(EXIT_CODE_INTERRUPTED) from interrupt
    except UserError as error:
        error.add_note(f"the run itself continues; follow it with: {command}")
        raise
    say(f"the run has ended: {'cancelled' if was_cancelled(run) else run.state.lower()}")
    if run.state != "SUCCEEDED":
        _print_ending(diagnosis.ending(run), api, run_id, file)
        raise typer.Exit(EXIT_CODE_RUN_FAILED)
    print_results(run_id, environment, output_console())


def _print_ending(ending: "Ending", api: "KfpApi", run_id: str, file: Path | None) -> None:
    if ending.log:
        print(f"the last lines of {ending.step}'s log:", file=sys.stderr)
        for line in ending.log:
            print(f"  {printable(line)}", file=sys.stderr)
    print(f"error: {printable(ending.line)}", file=sys.stderr)
    print(f"its page: {api.run_page(run_id)}", file=sys.stderr)
    if ending.step:
        print(f"its log: deepsynth logs {run_id} {ending.step} {_server_options(api, file)}", file=sys.stderr)


def _follow_command(api: "KfpApi", run_id: str, environment: Path | None) -> str:
    return f"deepsynth follow {run_id} {_server_options(api, environment)}"


def _server_options(api: "KfpApi", environment: Path | None) -> str:
    return f"--host {api.host}{f' --environment {environment}' if environment else ''}"
