"""A run's task list put together again as steps and their attempts.

KFP 2.17 lists the nodes of Argo's workflow without their own names: an entry has a title (``train``, ``train(0)``,
``executor``, ``executor(0)``), its state, and its children's ids. An id is the 32-bit FNV-1a hash of a full name,
such as ``RUN(0).root(0).exit-handler-1(0).train(0).executor(0)``, so titles and ids together give the names.
"""

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.definition.task_titles import TASK_TITLES

# KFP calls a task by its name or, in some versions, by its title.
_STEPS = {known: name for name, title in TASK_TITLES.items() for known in (name, title)}
# A step's state is the first of these that any of its tasks has.
_STATES_BY_WEIGHT = ("FAILED", "CANCELED", "RUNNING", "PENDING", "SUCCEEDED", "SKIPPED")
_ATTEMPT = re.compile(r"(.*)\((\d+)\)", re.DOTALL)
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193
_EXECUTOR = "executor"


@dataclass
class StepState:
    """The state of one step, over all of its tasks: draw-pages has several."""

    name: str
    states: list[str] = field(default_factory=list)
    cached: int = 0
    """tasks that KFP's cache answered"""
    error: str = ""
    started: datetime.datetime | None = None
    """when the last of its tasks that still run started, by KFP's clock"""

    @property
    def running(self) -> bool:
        """Whether KFP counts one of its tasks as running; its pod may still wait."""
        return self.state in ("RUNNING", "PENDING")

    @property
    def state(self) -> str:
        """KFP's name for the worst state of all tasks."""
        return next((state for state in _STATES_BY_WEIGHT if state in self.states), self.states[0])

    def __str__(self) -> str:
        done = sum(state == "SUCCEEDED" for state in self.states)
        if self.cached == len(self.states):
            return f"{self.name}: cached"
        count = f" ({done} of {len(self.states)} done)" if len(self.states) > 1 else ""
        state = "cancelled" if self.state == "CANCELED" else self.state.lower()
        return f"{self.name}: {state}{count}"


@dataclass(frozen=True)
class StepAttempt:
    """One pod of a step, by its node in Argo's workflow; ``number`` counts from 1."""

    step: str
    number: int
    node_id: str


def tasks_of(run: Any) -> list[Any]:
    """Return KFP's task list of a run; empty before Argo has started it."""
    return list((run.run_details.task_details if run.run_details else None) or [])


def step_states(run: Any) -> list[StepState]:
    """Return the steps that have started, in the pipeline's order."""
    tasks = tasks_of(run)
    cancelled = was_cancelled(run)
    pods = {attempt.step for attempt in step_attempts(tasks)} if _skipped_executors(tasks) else set()
    steps: dict[str, StepState] = {}
    for task in tasks:
        name = _STEPS.get(task.display_name or "")
        if name and task.state:
            step = steps.setdefault(name, StepState(name))
            step.states.append("CANCELED" if cancelled and task.state == "FAILED" else task.state)
            if task.state in ("RUNNING", "PENDING") and task.start_time:
                step.started = max(step.started or task.start_time, task.start_time)
            if task.state == "FAILED":
                step.error = step.error or _error_of(task, tasks)
            # A cached task's executor is skipped, so it has no pod and takes no time.
            step.cached += bool(_skipped_executors(tasks) and name not in pods and _took_no_time(task))
    return sorted(steps.values(), key=lambda step: list(TASK_TITLES).index(step.name))


def was_cancelled(run: Any) -> bool:
    """Return whether someone terminated the run: KFP ends it as FAILED, after CANCELING; a retry runs it again."""
    history = [status.state for status in run.state_history or []]
    last_start = max((place for place, state in enumerate(history) if state == "RUNNING"), default=0)
    return run.state == "CANCELED" or bool({"CANCELING", "CANCELED"} & set(history[last_start:]))


def failed_drivers(run: Any) -> dict[str, list[bool]]:
    """Return title -> for each failed attempt of this KFP driver, whether its pod was ever created."""
    found: dict[str, list[bool]] = {}
    for task in tasks_of(run):
        match = _ATTEMPT.fullmatch(task.display_name or "")
        if match and match[1].endswith("-driver") and task.state == "FAILED":
            states = {status.state for status in task.state_history or []}
            found.setdefault(match[1], []).append(bool(states & {"PENDING", "RUNNING"}))
    return found


def step_attempts(tasks: Iterable[Any]) -> list[StepAttempt]:
    """Return the pods of all steps, in the order of their attempts."""
    found = []
    for name, node in _names(list(tasks)).items():
        parts = _ATTEMPT.fullmatch(name)
        if parts and parts[1].endswith(f".{_EXECUTOR}"):
            step = step_of_node(name)
            if step:
                found.append(StepAttempt(step, int(parts[2]) + 1, node))
    return sorted(found, key=lambda attempt: (attempt.step, attempt.number))


def driver_nodes(tasks: Iterable[Any], driver: str) -> list[str]:
    """Return the node ids of a driver's attempts."""
    return [node for name, node in _names(list(tasks)).items() if _base(name.rpartition(".")[2]) == driver]


def step_of_node(name: str) -> str | None:
    """Return the step of an executor's node, by the node's full name.

    >>> step_of_node("deepsynth-finetune-x(0).root(0).condition-2(0).train(0).executor(1)")
    'train'
    """
    parts = name.split(".")
    if len(parts) < 2 or _base(parts[-1]) != _EXECUTOR:
        return None
    return _STEPS.get(_base(parts[-2]))


def pod_names(node_id: str) -> list[str]:
    """Return the names that Argo may have given to a node's pod: they depend on the task's template."""
    workflow, _, number = node_id.rpartition("-")
    templates = ("retry-system-container-impl", "system-container-impl", "system-dag-driver", "system-container-driver")
    return [f"{workflow}-{template}-{number}" for template in templates]


def node_id(workflow: str, name: str) -> str:
    """Return Argo's id of the node ``name``: the workflow's name and FNV-1a over the node's name.

    >>> node_id("w-vzg4n", "w-vzg4n(0).root(0)")
    'w-vzg4n-522632406'
    """
    value = _FNV_OFFSET
    for byte in name.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return f"{workflow}-{value}"


def _names(tasks: list[Any]) -> dict[str, str]:
    """Return full name -> id of the nodes that are some entry's child, found from the workflow's name downwards."""
    ids = {child.pod_name for task in tasks for child in task.child_tasks or [] if child.pod_name}
    titles = {task.display_name for task in tasks if task.display_name}
    bases = {_base(title) for title in titles}
    numbers = sorted({int(match[2]) for match in map(_ATTEMPT.fullmatch, titles) if match and match[1] in bases})
    found: dict[str, str] = {}
    for workflow in sorted({one.rpartition("-")[0] for one in ids} & titles):
        frontier = [workflow]
        while frontier:
            name = frontier.pop()
            for number in numbers:
                attempt = f"{name}({number})"
                node = node_id(workflow, attempt)
                if node in ids and attempt not in found:
                    found[attempt] = node
                    frontier += [f"{attempt}.{base}" for base in bases if base != workflow]
    return found


def _base(title: str) -> str:
    match = _ATTEMPT.fullmatch(title)
    return match[1] if match else title


def _skipped_executors(tasks: list[Any]) -> bool:
    return any(task.display_name == _EXECUTOR and task.state == "SKIPPED" for task in tasks)


def _took_no_time(task: Any) -> bool:
    return task.state == "SUCCEEDED" and task.start_time is not None and task.start_time == task.end_time


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
