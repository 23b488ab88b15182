"""``deepsynth run``: the whole pipeline on this machine."""

import datetime
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.shared.errors import EXIT_CODE_INTERRUPTED, UserError
from components.shared.telemetry.terminal import output_console
from components.shared.telemetry.tracing import pipeline_span
from pipelines.commands.cluster_options import PreparePartitions, Skip, settings_of
from pipelines.commands.runs_commands import RunsDir
from pipelines.local.runs_folder import FAILED
from pipelines.settings.command_settings import checked_config

if TYPE_CHECKING:
    from pipelines.local.docker_run import DockerRun
    from pipelines.local.local_runner import RunOutcome
    from pipelines.local.resumed_run import FailedRun
    from pipelines.settings.pipeline_config import SharedSettings


class Runner(StrEnum):
    """Where the steps of a local run execute."""

    SUBPROCESS = "subprocess"
    DOCKER = "docker"


Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting. May be repeated.")
]

RunnerOfSteps = Annotated[
    Runner,
    typer.Option(help="subprocess: each step in a process of this Python; docker: each in a container, as you."),
]
Image = Annotated[
    str | None,
    typer.Option(
        envvar="DEEPSYNTH_IMAGE",
        help="--runner docker: the steps' image. Default: what `make images` built from this code.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the settings, and say what would run, in which memory and time.")
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Go on with a run that failed or was interrupted: with its settings, its finished steps' outputs,"
        " and its training's last checkpoint.",
    ),
]


def run(
    config: Annotated[Path | None, typer.Option(help="A YAML or JSON file. Default: the quickstart's.")] = None,
    set_: Settings = None,
    runner: RunnerOfSteps = Runner.SUBPROCESS,
    image: Image = None,
    runs_dir: RunsDir = Path("runs"),
    run_id: Annotated[str | None, typer.Option(help="The run's name. Default: the time in UTC.")] = None,
    prepare_partitions: PreparePartitions = 1,
    skip: Skip = None,
    dry_run: DryRun = False,
    resume: Resume = None,
) -> None:
    """Run the whole pipeline on this machine, from documents to adapter, evaluation and package.

    **Examples**

    - the quickstart, without network or GPU: `deepsynth run`

    - your own documents: `deepsynth run --set source=scans/texts --set prepare.max_documents=500`

    - another model: `deepsynth run --set base_model=deepseek-community/DeepSeek-OCR-2 --set train.learning_rate=1e-4`

    - a settings file: `deepsynth config > my.yaml`, edit, `deepsynth run --config my.yaml`

    - without the comparison of trainers: `deepsynth run --skip benchmark`

    - in containers, with the machine's GPU if it has one: `make images`, `deepsynth run --runner docker`

    - before a long one: `deepsynth run --dry-run --config my.yaml`

    - after a failure, or Ctrl-C: `deepsynth run --resume 20261129-101500`

    The results are in `runs/<id>/`; `deepsynth config` lists every key with its meaning and default.
    """
    from pipelines.local.local_runner import run_pipeline

    _check_name(resume or run_id, "--resume" if resume else "--run-id")
    if run_id and (runs_dir / run_id).exists():
        raise UserError("there is a run of this name", where=str(runs_dir / run_id), mend="give another --run-id")
    settings = settings_of(set_, skip)
    resumed = _resumed_run(runs_dir, resume, config, settings, run_id) if resume else None
    checked = checked_config(resumed.config if resumed else config, settings)
    _check_machine(checked, runner)
    _check_sources(checked)
    name = resume or run_id or datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    if dry_run:
        _show_plan(checked, runs_dir, name, resumed)
        return
    try:
        docker = _docker_run(name, runs_dir, image) if runner is Runner.DOCKER else None
        with pipeline_span(name, "deepsynth-finetune"):
            # A dataset that is taken over is there as a whole: no partitions.
            outcome = run_pipeline(checked, runs_dir, name, 1 if resumed else prepare_partitions, docker, resumed)
    except KeyboardInterrupt as interrupt:
        _say_interrupted(interrupt, name, runs_dir)
        raise typer.Exit(EXIT_CODE_INTERRUPTED) from interrupt
    _show(outcome, runs_dir)


def _check_machine(checked: "SharedSettings", runner: Runner) -> None:
    from pipelines.planning.machine_checks import check_machine

    if runner is Runner.SUBPROCESS:
        check_machine({step: checked.step_settings(step) for step in ("train", "evaluate")})


def _check_sources(checked: "SharedSettings") -> None:
    """Refuse a source that is not there; the run's first task would, but starting it takes seconds."""
    from components.prepare.config import PrepareConfig
    from components.prepare.sources.opening import check_exists

    settings = checked.step_settings("prepare") | {"output_dir": Path()}
    for source in PrepareConfig.model_validate(settings).sources():
        check_exists(source.source)


def _show_plan(checked: "SharedSettings", runs_dir: Path, name: str, resumed: "FailedRun | None") -> None:
    from pipelines.planning.dry_run import planned_run

    for line in planned_run(checked, runs_dir, name, resumed).lines():
        output_console().print(line, markup=False, highlight=False, soft_wrap=True)


def _say_interrupted(interrupt: KeyboardInterrupt, run_id: str, runs_dir: Path) -> None:
    from components.shared.tracking.pipeline_run import kill_pipeline_run
    from pipelines.local.runs_folder import tracking_uri

    kill_pipeline_run(run_id, tracking_uri(runs_dir))
    notes = getattr(interrupt, "__notes__", []) or ["no step had finished, and nothing was kept"]
    print("interrupted", *notes, sep="\n", file=sys.stderr)


def _show(outcome: "RunOutcome", runs_dir: Path) -> None:
    from pipelines.local.run_summary import print_summary
    from pipelines.local.runs_folder import tracking_uri

    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_summary(outcome.summary, outcome.folder, tracking_uri(runs_dir), output_console())


def _check_name(name: str | None, option: str) -> None:
    if name is None:
        return
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError("may hold letters, digits, dots, - and _ only", where=f"{option} {name!r}")
    if name.endswith(FAILED):
        raise UserError(f"must not end in {FAILED}, which marks a failed run's folder", where=f"{option} {name!r}")


def _resumed_run(
    runs_dir: Path, resume: str, config: Path | None, settings: list[str], run_id: str | None
) -> "FailedRun":
    from pipelines.local.resumed_run import failed_run

    if config or settings or run_id:
        raise UserError(
            "a resumed run has its own settings and its own name",
            where="--resume",
            mend="leave out --config, --set, --skip and --run-id, or start a new run with them",
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
