"""Why a step waits or failed, in one line, and what to do about texts that Kubernetes and steps leave."""

import re
from dataclasses import dataclass

from pipelines.definition.environment import Environment
from pipelines.definition.task_titles import TASK_KINDS


@dataclass(frozen=True)
class Reason:
    """One line for the user; ``mend`` may be empty where the problem already says it."""

    problem: str
    mend: str = ""

    def __str__(self) -> str:
        return " ".join(f"{self.problem}{'; ' if self.mend else ''}{self.mend}".split())


def resources_key(step: str) -> str:
    """Return the environment's key of the resources that ``step`` gets, such as ``resources.gpu``."""
    return f"resources.{TASK_KINDS.get(step, 'control')}"


_CACHED_FILES_GONE = (
    "KFP's cache names files that are gone from its object store: run again without the cache"
    " (submit --no-cache), or put the files back"
)
# What steps, Argo and Kubernetes say -> what to do. Messages of ours that have a mend already match none of these.
_MENDS = (
    (
        r"/(?:minio|s3|gcs)/\S+.*(?:FileNotFoundError|No such file)",
        _CACHED_FILES_GONE,
    ),
    (
        r"(?:checkpoint|cache).*[Pp]ermission denied",
        "the volume must be writable for the steps' user and group: set security_context.run_as_user and run_as_group"
        " in the environment (10001), and apply the overlay's Job deepsynth-volume-permissions again",
    ),
    (
        r"serviceaccounts? \"?([\w.-]+)\"? not found|error looking up service account",
        "create it with the overlay (kubectl apply -k build/manifests/NAME), or correct service_account and namespace"
        " in the environment",
    ),
    (r"exceeded quota", "wait for other pods to end, or raise the quota (manifests/components/quota)"),
    (
        r"violates PodSecurity",
        "set security_context.run_as_non_root: true in the environment, or lower the namespace's Pod Security level",
    ),
    (r"NoSuchBucket|bucket .*does not exist", "create the bucket, or correct defaultPipelineRoot in kfp-launcher"),
    (
        r"configmaps? \"?kfp-launcher",
        "the run's account lacks the Role deepsynth-pipeline: apply the overlay in the runs' namespace",
    ),
    (r"is forbidden", "ask the cluster's admin for this right"),
)


def with_known_mend(text: str) -> Reason:
    """Return ``text`` as a reason, with a mend if it is a known error that names none."""
    problem = " ".join(text.split())
    for pattern, mend in _MENDS:
        if re.search(pattern, problem):
            return Reason(problem, mend)
    return Reason(problem)


def deadline(step: str, seconds: int | None, environment: Environment) -> Reason:
    """Return the reason of a pod that its deadline (``spec.activeDeadlineSeconds``) ended."""
    kind = getattr(environment.resources, TASK_KINDS.get(step, "control"))
    if kind.timeout_seconds and kind.timeout_seconds == seconds:
        return Reason(f"out of time after {seconds} s", f"raise {resources_key(step)}.timeout_seconds")
    return Reason("the run's deadline ended it", "raise limits.active_deadline_seconds in the environment")


def out_of_memory(step: str, limit: str | None, logged: str = "") -> Reason:
    """Return the reason of a container that took more than its memory limit, or of a node without memory.

    ``logged`` is what the step had said of its memory.
    """
    used = f" ({logged})" if logged else ""
    if limit is None:
        mend = f"set {resources_key(step)}.memory_request and memory_limit, so that it gets a node with room"
        return Reason(f"out of memory: the node had none left{used}", mend)
    return Reason(f"out of memory at {limit}: raise {resources_key(step)}.memory_limit{used}")


def killed(step: str, environment: Environment, logged: str = "") -> Reason:
    """Return the reason of a step that ended by SIGKILL, where only the log tells."""
    limit = getattr(environment.resources, TASK_KINDS.get(step, "control")).memory_limit
    at = f" at {limit}" if limit else ""
    used = f" ({logged})" if logged else ""
    return Reason(f"killed (SIGKILL), most probably out of memory{at}: raise {resources_key(step)}.memory_limit{used}")
