"""Why a run ended as it did, and what a running one waits for, from all sources in their order."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.definition.environment import Environment
from pipelines.following.pod_reports import StepPod, driver_pods, failure_of_pod, waiting_for
from pipelines.following.reason import Reason, killed, with_known_mend
from pipelines.following.run_sources import RunSources
from pipelines.following.step_log import killed_by_the_kernel, last_error, logged_memory, own_lines
from pipelines.following.workflow_nodes import (
    StepAttempt,
    StepState,
    driver_nodes,
    failed_drivers,
    step_attempts,
    step_of_node,
    step_states,
    tasks_of,
    was_cancelled,
)

_SECONDS_BEFORE_WAITING_IS_SAID = 30.0
_LAST_LINES = 20
_GLOG_ERROR = re.compile(r"[EF]\d{4} \S+\s+\d+ \S+\] (.+)")


@dataclass(frozen=True)
class Ending:
    """Why a run did not succeed: one line, and the last lines of the step's own log."""

    line: str
    step: str = ""
    log: list[str] = field(default_factory=list)


class Diagnosis:
    """Answers questions about one run.

    Args:
        environment: names the keys that a mend speaks of.
    """

    def __init__(self, sources: RunSources, environment: Environment) -> None:
        self._sources = sources
        self._environment = environment

    def ending(self, run: Any) -> Ending:
        """Return why an ended run did not succeed."""
        steps = step_states(run)
        failed = [step for step in steps if step.state in ("FAILED", "CANCELED")]
        if was_cancelled(run):
            return self._cancelled(run, failed)
        if failed:
            return self._failed(run, failed[0])
        if drivers := failed_drivers(run):
            driver, created = next(iter(drivers.items()))
            return Ending(f"{self._before_its_step(driver)}: {self._driver_failure(run, driver, created)}")
        said = " ".join((run.error.message if run.error and run.error.message else "").split())
        messages = [said] if said else [text for name, _, text in self._sources.workflow_messages() if not name]
        return Ending(
            f"the run ended as {run.state.lower()}" + "".join(f": {with_known_mend(text)}" for text in messages)
        )

    def attempts(self, run: Any) -> Iterator[tuple[str, str]]:
        """Yield (step, text) for each attempt after a failed one: its number, and why the one before failed."""
        repeated = [attempt for attempt in step_attempts(tasks_of(run)) if attempt.number > 1]
        if not repeated:
            return
        pods = {(pod.step, pod.attempt): pod for pod in self._sources.step_pods()}
        for attempt in repeated:
            pod = pods.get((attempt.step, attempt.number))
            number = pod.attempt_of(self._environment) if pod else f"attempt {attempt.number}"
            before = pods.get((attempt.step, attempt.number - 1))
            reason = failure_of_pod(before, self._environment) if before else None
            gone = "its pod was deleted or evicted, or its node was lost"
            yield attempt.step, f"{number}; attempt {attempt.number - 1} failed: {reason or gone}"

    def waiting(self, run: Any, now: datetime.datetime) -> Iterator[tuple[str, str]]:
        """Yield (step, text) for each step whose pod has not started 30 s after it should have."""
        late = [step for step in step_states(run) if step.running and _late(step, now)]
        if not late:
            return
        pods = self._sources.step_pods()
        for step in late:
            own = [pod for pod in pods if pod.step == step.name]
            for pod in own:
                if pod.phase == "Pending" and pod.age(now) >= _SECONDS_BEFORE_WAITING_IS_SAID:
                    reason = waiting_for(pod, self._sources.events(pod.name), self._environment)
                    yield step.name, f"{pod.attempt_of(self._environment)} waits: {reason or 'its pod is pending'}"
            if not own:
                yield from self._waits_without_a_pod(run, step)

    def _waits_without_a_pod(self, run: Any, step: StepState) -> Iterator[tuple[str, str]]:
        for name, phase, message in self._sources.workflow_messages():
            if phase in ("Pending", "Running") and step_of_node(name) == step.name:
                yield step.name, f"waits: its pod is not created: {with_known_mend(message)}"
                return
        pending = any(task.state == "PENDING" and task.start_time == step.started for task in tasks_of(run))
        if pending:
            yield step.name, "waits: its pod has not started; KFP does not say why, Kubernetes would (kubectl describe)"

    def _cancelled(self, run: Any, failed: list[StepState]) -> Ending:
        moments = [status.update_time for status in run.state_history or [] if status.state == "CANCELING"]
        at = f" at {moments[-1]:%H:%M:%S} UTC" if moments and moments[-1] else ""
        while_ = f", while {failed[0].name} ran" if failed else ""
        mend = f"go on with: deepsynth retry {run.run_id}"
        return Ending(f"cancelled by someone{at}{while_}; {mend}", failed[0].name if failed else "")

    def _failed(self, run: Any, step: StepState) -> Ending:
        pods = [pod for pod in self._sources.step_pods() if pod.step == step.name]
        ended = [pod for pod in pods if pod.phase in ("Failed", "Unknown")]
        attempts = [attempt for attempt in step_attempts(tasks_of(run)) if attempt.step == step.name]
        lines = self._log(ended, attempts)
        reason = failure_of_pod(ended[-1], self._environment, logged_memory(lines)) if ended else None
        if reason is None:
            reason = self._other_reason(step, ended, lines)
        attempt = f" ({ended[-1].attempt_of(self._environment)})" if ended else ""
        return Ending(f"{step.name} failed{attempt}: {reason}", step.name, list(own_lines(lines))[-_LAST_LINES:])

    def _other_reason(self, step: StepState, ended: list[StepPod], lines: list[str]) -> Reason:
        if said := self._sources.tracked_error(step.name) or step.error or last_error(lines):
            return with_known_mend(said.removeprefix("UserError: ").removeprefix(f"{step.name}: "))
        for name, _, message in self._sources.workflow_messages():
            if step_of_node(name) == step.name:
                return with_known_mend(message)
        if killed_by_the_kernel(lines):
            return killed(step.name, self._environment, logged_memory(lines))
        state = "its pod left no message" if ended else "its pod is gone"
        return Reason(f"{state}, and neither MLflow nor KFP has an error text")

    def _log(self, ended: list[StepPod], attempts: list[StepAttempt]) -> list[str]:
        lines = self._sources.log_of_pod(ended[-1].name) if ended else None
        if lines is None and attempts:
            lines = self._sources.log_of_node(attempts[-1].node_id)
        return lines or []

    def _driver_failure(self, run: Any, driver: str, created: list[bool]) -> Reason:
        account = run.service_account
        if account and not any(created) and self._sources.account_is_missing(account):
            said = f'serviceaccount "{account}" not found in namespace {self._environment.namespace}'
            return with_known_mend(said)
        for name, _, message in self._sources.workflow_messages():
            if driver in name and "child" not in message:
                return with_known_mend(message)
        for pod in driver_pods(self._sources.pods() or []):
            for container in pod.get("status", {}).get("containerStatuses", []):
                if left := (container.get("state", {}).get("terminated") or {}).get("message"):
                    return with_known_mend(str(left))
        for node in driver_nodes(tasks_of(run), driver):
            errors = [match[1] for match in map(_GLOG_ERROR.match, self._sources.log_of_node(node) or []) if match]
            if errors:
                return with_known_mend(errors[-1])
        times = f"in all {len(created)} attempts" if len(created) > 1 else "at once"
        if any(created):
            return Reason(
                f"KFP's {driver} failed {times}, and its log is gone",
                "check that the pipeline root's bucket exists and takes KFP's key (ConfigMap kfp-launcher,"
                f" defaultPipelineRoot, in namespace {self._environment.namespace})",
            )
        return Reason(
            f"Kubernetes refused the pod of KFP's {driver} {times}",
            f"check that the service account {account or 'of the run'} exists in namespace"
            f" {self._environment.namespace}, and its quota and Pod Security level",
        )

    def _before_its_step(self, driver: str) -> str:
        step = driver.removesuffix("-driver")
        return "the run failed before its first step" if step == "root" else f"the run failed before {step}"


def _late(step: StepState, now: datetime.datetime) -> bool:
    return step.started is not None and (now - step.started).total_seconds() >= _SECONDS_BEFORE_WAITING_IS_SAID
