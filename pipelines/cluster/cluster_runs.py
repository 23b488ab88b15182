"""Start runs of the pipeline in KFP, and follow the state of each step."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kfp_server_api import (
    V2beta1Experiment,
    V2beta1PipelineVersionReference,
    V2beta1Run,
    V2beta1RuntimeConfig,
)

from pipelines.cluster.kfp_api import KfpApi, LostContactError
from pipelines.cluster.pipeline_package import UploadedVersion
from pipelines.definition.environment import Environment
from pipelines.definition.task_titles import TASK_TITLES

# KFP also lists drivers and sub-pipelines. It calls a task by its name or, in some versions, by its title.
_STEPS = {known: name for name, title in TASK_TITLES.items() for known in (name, title)}
_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
# A step's state is the first of these that any of its tasks has.
_STATES_BY_WEIGHT = ("FAILED", "CANCELED", "RUNNING", "PENDING", "SUCCEEDED", "SKIPPED")
_SECONDS_WITHOUT_CONTACT = 600


@dataclass
class StepState:
    """The state of one step, over all of its tasks: draw-pages has several."""

    name: str
    states: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def state(self) -> str:
        """KFP's name for the worst state of all tasks."""
        return next((state for state in _STATES_BY_WEIGHT if state in self.states), self.states[0])

    def __str__(self) -> str:
        done = sum(state == "SUCCEEDED" for state in self.states)
        count = f" ({done} of {len(self.states)} done)" if len(self.states) > 1 else ""
        return f"{self.name}: {self.state.lower()}{count}"


def experiment_id(api: KfpApi, name: str) -> str:
    """Return the id of KFP's experiment ``name``; create it if it does not exist."""
    where = {"namespace": api.namespace} if api.namespace else {}
    found = api.named("experiments", "experiment_service_list_experiments", "experiments", name, **where)
    if not found:
        wanted = V2beta1Experiment(display_name=name, namespace=api.namespace)
        found = [api.call("experiments", "experiment_service_create_experiment", experiment=wanted)]
    return str(found[0].experiment_id)


def version_reference(version: UploadedVersion) -> Any:
    """Return the reference to the pipeline's version that a run needs."""
    return V2beta1PipelineVersionReference(pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id)


def plugins_input(environment: Environment) -> dict[str, Any] | None:
    """Return the experiment's name for KFP's MLflow plugin, if the environment leaves tracking to the plugin."""
    if environment.mlflow_tracking_uri is not None:
        return None
    return {"mlflow": {"experiment_name": environment.mlflow_experiment}}


def start_run(
    api: KfpApi, environment: Environment, version: UploadedVersion, name: str, parameters: dict[str, Any]
) -> str:
    """Start a run of ``version`` in the environment's experiment, and return its id."""
    run = V2beta1Run(
        experiment_id=experiment_id(api, environment.experiment),
        display_name=name,
        pipeline_version_reference=version_reference(version),
        runtime_config=V2beta1RuntimeConfig(parameters=parameters),
        service_account=environment.service_account,
        plugins_input=plugins_input(environment),
    )
    return str(api.call("runs", "run_service_create_run", run=run).run_id)


def follow_run(api: KfpApi, run_id: str, say: Callable[[str], None], seconds_between_looks: float) -> Any:
    """Poll the run until it ends, ``say`` each new state of a step, and return the ended run.

    If the server does not answer, keep asking for ten minutes.

    Raises:
        UserError: no such run, the login expired, or the server stays away.
    """
    said: dict[str, str] = {}
    contact, lost = time.monotonic(), False
    while True:
        try:
            run = api.call("runs", "run_service_get_run", run_id=run_id)
        except LostContactError as error:
            if time.monotonic() - contact > _SECONDS_WITHOUT_CONTACT:
                raise
            if not lost:
                say(f"{error}; asking again, the run goes on meanwhile")
            lost = True
            time.sleep(seconds_between_looks)
            continue
        contact, lost = time.monotonic(), False
        for step in step_states(run):
            if said.get(step.name) != str(step):
                said[step.name] = str(step)
                say(str(step))
        if run.state in _ENDED:
            return run
        time.sleep(seconds_between_looks)


def step_states(run: Any) -> list[StepState]:
    """Return the steps that have started, in the pipeline's order."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    steps: dict[str, StepState] = {}
    for task in tasks:
        name = _STEPS.get(task.display_name)
        if name and task.state:
            step = steps.setdefault(name, StepState(name))
            step.states.append(task.state)
            if task.state == "FAILED":
                step.error = step.error or _error_of(task, tasks)
    return sorted(steps.values(), key=lambda step: list(TASK_TITLES).index(step.name))


def failure_of(run: Any) -> str:
    """Return which step failed, with its error if KFP has one."""
    failed = [step for step in step_states(run) if step.state == "FAILED"]
    if failed:
        return f"{failed[0].name} failed: {failed[0].error or 'KFP says no reason, the log does'}"
    reason = run.error.message if run.error and run.error.message else ""
    return f"the run ended as {run.state.lower()}" + (f": {' '.join(reason.split())}" if reason else "")


def _error_of(task: Any, tasks: list[Any]) -> str:
    """Return the last error of a task or its children: a task is an Argo node, and its pod is a child node."""
    messages: list[str] = []
    waiting, seen = [task], set[str]()
    while waiting:
        node = waiting.pop(0)
        errors = [node.error, *(status.error for status in node.state_history or [])]
        messages += [error.message for error in errors if error and error.message]
        children = {child.pod_name or child.task_id for child in node.child_tasks or []} - seen
        seen |= children
        waiting += [one for one in tasks if one.pod_name in children or one.task_id in children]
    return " ".join(messages[-1].split()) if messages else ""
