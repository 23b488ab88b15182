"""``deepsynth logs``: a step's own log on a cluster."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.shared.errors import EXIT_CODE_INTERRUPTED, UserError, printable
from pipelines.commands.cluster_options import EnvironmentFile, Host, cluster_environment, connected
from pipelines.commands.submit_command import PollSeconds
from pipelines.definition.task_titles import TASK_TITLES

if TYPE_CHECKING:
    from pipelines.cluster.kfp_api import KfpApi
    from pipelines.following.run_sources import RunSources

_SECONDS_BETWEEN_LOOKS = 5.0


def logs(
    run_id: Annotated[str, typer.Argument(help="The run's id, as submit printed it.")],
    step: Annotated[
        str | None, typer.Argument(help="The step. Default: the one that failed, else the one that runs.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print new lines until the step ends.")] = False,
    host: Host = None,
    environment: EnvironmentFile = None,
    poll_seconds: PollSeconds = _SECONDS_BETWEEN_LOOKS,
) -> None:
    """Print the log of one step of a run on a cluster, without the lines of KFP's launcher and drivers.

    The log comes from Kubernetes if a kubeconfig or service account reaches it, otherwise from KFP.

    **Example**: `deepsynth logs 0b9b6b0c-4f0f-4ac5-9c58-1f1e35b4e7a1 train --environment production.yaml --follow`
    """
    from pipelines.following.run_sources import RunSources

    settings = cluster_environment(environment)
    api = connected(host, settings)
    sources = RunSources(api, settings, run_id, lambda text: print(text, file=sys.stderr))
    chosen = _chosen(_run(api, run_id), step)
    try:
        if follow:
            _follow(api, sources, run_id, chosen, poll_seconds)
        else:
            _print_all(api, sources, run_id, chosen)
    except KeyboardInterrupt as interrupt:
        raise typer.Exit(EXIT_CODE_INTERRUPTED) from interrupt


def _run(api: "KfpApi", run_id: str) -> Any:
    return api.call("runs", "run_service_get_run", run_id=run_id)


def _chosen(run: Any, step: str | None) -> str:
    from pipelines.following.workflow_nodes import step_states

    steps = {one.name: one for one in step_states(run)}
    if step is not None and step not in TASK_TITLES:
        raise UserError("no such step", where=step, mend=f"the steps are {', '.join(TASK_TITLES)}")
    if step is not None and step not in steps:
        started = ", ".join(steps) or "none"
        raise UserError("has not started in this run", where=step, mend=f"the steps that have: {started}")
    if not steps:
        raise UserError("no step of this run has started", where=run.run_id, mend="see why with: deepsynth follow")
    by_weight = sorted(steps.values(), key=lambda one: (one.state not in ("FAILED", "CANCELED"), not one.running))
    chosen = step or by_weight[0].name
    if steps[chosen].cached == len(steps[chosen].states):
        raise UserError("KFP's cache answered it: it did not run", where=chosen, mend="name a step that ran")
    return chosen


def _print_all(api: "KfpApi", sources: "RunSources", run_id: str, step: str) -> None:
    from pipelines.following.step_log import own_lines

    parts = list(_parts(api, sources, run_id, step))
    if not parts:
        raise UserError(
            "no log is left, neither in Kubernetes nor in KFP",
            where=step,
            mend="pods are deleted after limits.ttl_seconds_after_*; MLflow keeps the run's metrics and errors",
        )
    for title, lines in parts:
        if len(parts) > 1:
            print(f"== {step}, {title}")
        own = list(own_lines(lines))
        _print(own)
        if not own and lines:
            print("note: KFP's log has no lines of the step's own", file=sys.stderr)


def _parts(api: "KfpApi", sources: "RunSources", run_id: str, step: str) -> Iterator[tuple[str, list[str]]]:
    """Yield title and raw lines of each pod of the step, from Kubernetes, or from KFP if that has none."""
    from pipelines.following.workflow_nodes import step_attempts, tasks_of

    found = False
    for pod in sources.step_pods():
        lines = sources.log_of_pod(pod.name) if pod.step == step else None
        if lines is not None:
            found = True
            yield f"attempt {pod.attempt}, pod {pod.name}", lines
    if found:
        return
    for attempt in step_attempts(tasks_of(_run(api, run_id))):
        lines = sources.log_of_node(attempt.node_id) if attempt.step == step else None
        if lines is not None:
            yield f"attempt {attempt.number}, node {attempt.node_id}", lines


def _follow(api: "KfpApi", sources: "RunSources", run_id: str, step: str, seconds: float) -> None:
    """Print the log of the step's running pods until the step ends; a further attempt's log follows."""
    from pipelines.following.step_log import own_lines
    from pipelines.following.workflow_nodes import step_states

    seen: dict[str, int] = {}
    while True:
        state = next(one for one in step_states(_run(api, run_id)) if one.name == step)
        running = [pod for pod in sources.step_pods() if pod.step == step and pod.phase == "Running"]
        streamed = sources.followed_log(running[0].name) if len(running) == 1 and not seen else None
        if streamed is not None:
            for count, line in enumerate(own_lines(streamed), start=1):
                _print([line])
                seen[running[0].name] = count
            time.sleep(seconds)
            continue
        for title, lines in _parts(api, sources, run_id, step):
            key = title.rpartition(" ")[2]
            own = list(own_lines(lines))
            _print(own[seen.get(key, 0) :])
            seen[key] = max(seen.get(key, 0), len(own))
        if not state.running:
            return
        time.sleep(seconds)


def _print(lines: list[str]) -> None:
    for line in lines:
        for part in line.splitlines():
            print(printable(part, keep="\t"))
    sys.stdout.flush()
