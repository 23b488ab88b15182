"""``deepsynth schedule``: recurring runs on a cluster."""

import json
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.table import Table

from components.shared.errors import UserError
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

schedule = typer.Typer(no_args_is_help=True, help="Schedule runs on a cluster: create, list, pause, resume, delete.")

Name = Annotated[str, typer.Argument(help="The schedule's name, such as weekly-letters.")]
_NEXT_TIMES = 3


@schedule.command()
def create(
    name: Name,
    cron: Annotated[
        str, typer.Option(help="Minute, hour, day of the month, month, day of the week: '0 3 * * 1', Mondays at 3.")
    ],
    timezone: Annotated[str, typer.Option(help="The time zone of the cron fields, such as Europe/Berlin.")] = "UTC",
    host: Host = None,
    environment: EnvironmentFile = None,
    config: ConfigFile = None,
    set_: Settings = None,
    experiment: Experiment = None,
    skip_if_unchanged: Annotated[
        bool,
        typer.Option(help="Skip training if the champion (evaluate.champion) was trained on the same documents."),
    ] = True,
    skip: Skip = None,
    prepare_partitions: PreparePartitions = 1,
) -> None:
    """Create a schedule. It runs one run at a time and does not catch up on missed times, e.g. while paused.

    KFP's scheduler uses one time zone (scheduler_timezone in the environment; UTC by default). Times of another
    `--timezone` are converted with today's difference; the output says when the clocks change.

    **Example**

    - `deepsynth schedule create weekly --cron "0 3 * * 1" --timezone Europe/Berlin --environment production.yaml
      --config my.yaml`
    """
    from pipelines.cluster.cron import cron_times
    from pipelines.cluster.recurring_runs import create_recurring_run
    from pipelines.commands.submit_command import run_parameters, uploaded_version

    settings = cluster_environment(environment, experiment)
    times = cron_times(cron, timezone, settings.scheduler_timezone)
    parameters = run_parameters(settings, config, settings_of(set_, skip), skip_if_unchanged)
    api = connected(host, settings)
    if _found(api, name):
        mend = "use another name, or delete the old one first: deepsynth schedule delete " + name
        raise UserError("a schedule of this name exists", where=name, mend=mend)
    parameters["run_pages"] = api.run_page("")
    version = uploaded_version(api, settings, prepare_partitions)
    create_recurring_run(api, settings, version, name, times.kfp, parameters)
    print(f"schedule {name}: {times.kfp} (seconds first) in {times.scheduler_zone}, runs of version {version.name}")
    for time in times.next(_NEXT_TIMES):
        print(f"  {time:%a %Y-%m-%d %H:%M} {times.scheduler_zone}{_also_in(time, timezone, times.scheduler_zone)}")
    if times.changes_clocks:
        print(
            f"note: on {times.changes_clocks:%Y-%m-%d} the clocks of {timezone} change against {times.scheduler_zone}:"
            " from then on the runs start at another time by them; create the schedule again then, or have KFP's"
            " cronScheduleTimezone set to that zone, and scheduler_timezone in the environment"
        )
    if skip_if_unchanged and not _names_a_champion(parameters):
        print("note: the configuration names no evaluate.champion to compare with: every run trains")


@schedule.command("list")
def show(host: Host = None, environment: EnvironmentFile = None) -> None:
    """List the schedules with their cron fields, state and next start."""
    from pipelines.cluster.recurring_runs import described

    settings = cluster_environment(environment)
    api = connected(host, settings)
    table = Table(box=None, pad_edge=False)
    for column in ("name", "state", "cron (seconds first)", "next", "skips unchanged data", "version"):
        table.add_column(column, overflow="fold")
    for recurring in _all(api):
        table.add_row(*described(api, recurring, settings.scheduler_timezone))
    output_console(160).print(table)


@schedule.command()
def pause(name: Name, host: Host = None, environment: EnvironmentFile = None) -> None:
    """Start no more runs until `deepsynth schedule resume`. A running run continues."""
    _change(name, host, environment, "recurring_run_service_disable_recurring_run")
    print(f"{name} is paused")


@schedule.command()
def resume(name: Name, host: Host = None, environment: EnvironmentFile = None) -> None:
    """Start runs again from the schedule's next time on."""
    _change(name, host, environment, "recurring_run_service_enable_recurring_run")
    print(f"{name} is on")


@schedule.command()
def delete(name: Name, host: Host = None, environment: EnvironmentFile = None) -> None:
    """Delete a schedule. Its runs stay, and a running run continues."""
    _change(name, host, environment, "recurring_run_service_delete_recurring_run")
    print(f"{name} is deleted")


def _change(name: str, host: str | None, environment: Any, method: str) -> None:
    settings = cluster_environment(environment)
    api = connected(host, settings)
    found = _found(api, name)
    if not found:
        known = ", ".join(sorted(one.display_name for one in _all(api))) or "none"
        raise UserError(f"no such schedule (there are: {known})", where=name)
    if len(found) > 1:
        mend = "remove one on KFP's page Recurring Runs: their ids are " + ", ".join(
            one.recurring_run_id for one in found
        )
        raise UserError(f"there are {len(found)} schedules of this name", where=name, mend=mend)
    api.call("recurring_runs", method, recurring_run_id=found[0].recurring_run_id)


def _all(api: "KfpApi") -> list[Any]:
    where = {"namespace": api.namespace} if api.namespace else {}
    found = api.all_pages("recurring_runs", "recurring_run_service_list_recurring_runs", "recurring_runs", **where)
    return sorted(found, key=lambda one: one.display_name)


def _found(api: "KfpApi", name: str) -> list[Any]:
    return [one for one in _all(api) if one.display_name == name]


def _also_in(time: Any, zone: str, scheduler_zone: str) -> str:
    return f" = {time.astimezone(ZoneInfo(zone)):%H:%M} {zone}" if zone != scheduler_zone else ""


def _names_a_champion(parameters: dict[str, Any]) -> bool:
    evaluate = json.loads(parameters["config"]).get("evaluate") or {}
    return bool(evaluate.get("champion"))
