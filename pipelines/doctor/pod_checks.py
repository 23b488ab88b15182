"""A Job in the runs' namespace, like a step's pod: whether it starts, and what it can write and reach."""

import time
from collections.abc import Iterator
from typing import Any

from pipelines.cluster.kubernetes_api import (
    KubernetesApi,
    KubernetesRefusedError,
    KubernetesUnreachableError,
    connect_kubernetes,
)
from pipelines.definition.environment import Environment
from pipelines.doctor.check_job import check_job, start_job
from pipelines.doctor.finding import Finding
from pipelines.doctor.in_pod import findings_in
from pipelines.doctor.pipeline_root import Bucket, bucket_of
from pipelines.following.pod_reports import StepPod, failure_of_pod, waiting_for

SECONDS_TO_END = 300.0
SECONDS_BEFORE_A_WAIT_COUNTS = 30.0
SECONDS_BETWEEN_LOOKS = 1.0


def pod_findings(environment: Environment) -> Iterator[Finding]:
    """Start a Job for each image of the steps, yield what it finds, and remove it; nothing without a connection."""
    try:
        api = connect_kubernetes(environment.namespace)
        bucket = bucket_of(api)
        if isinstance(bucket, Finding):
            yield bucket
        known = bucket if isinstance(bucket, Bucket) else None
        yield from _job(api, environment, check_job(environment, known))
        if environment.gpu_image != environment.image:
            yield from _job(api, environment, start_job(environment))
    except KubernetesRefusedError as error:
        mend = "the check needs the rights to create and delete jobs, and to read pods and their logs; or --no-pod"
        yield Finding("unknown", "a step's pod", str(error), mend)
    except KubernetesUnreachableError:  # the other checks of the cluster have said it
        return


def _job(api: KubernetesApi, environment: Environment, job: dict[str, Any]) -> Iterator[Finding]:
    jobs = f"/apis/batch/v1/namespaces/{api.namespace}/jobs"
    name = str(api.post(jobs, job)["metadata"]["name"])
    image = job["spec"]["template"]["spec"]["containers"][0]["image"]
    subject = f"a pod with {image}"
    try:
        pod = _ended_pod(api, name, subject, environment)
        if isinstance(pod, Finding):
            yield pod
            return
        yield Finding("ok", subject, f"was started in {api.namespace}")
        log = api.text(f"{api.in_namespace('pods')}/{pod.name}/log", container="main")
        yield from findings_in(log.splitlines())
        if pod.phase != "Succeeded":
            reason = failure_of_pod(pod, environment)
            last = next((line for line in reversed(log.splitlines()) if line.strip()), "it printed nothing")
            yield Finding("fault", subject, str(reason) if reason else f"its program failed: {last[:300]}")
    finally:
        api.delete(f"{jobs}/{name}", propagationPolicy="Background")


def _ended_pod(api: KubernetesApi, job: str, subject: str, environment: Environment) -> StepPod | Finding:
    """Return the Job's pod once it has ended, or why it does not start."""
    started = time.monotonic()
    while True:
        waited = time.monotonic() - started
        pods = api.get(api.in_namespace("pods"), labelSelector=f"job-name={job}").get("items") or []
        pod = StepPod("configure", 1, pods[0]["metadata"]["name"], False, pods[0]) if pods else None
        if pod and pod.phase in ("Succeeded", "Failed"):
            return pod
        if waited >= SECONDS_BEFORE_A_WAIT_COUNTS and (why := _waits(api, job, pod, environment)):
            return Finding("fault", subject, why)
        if waited >= SECONDS_TO_END:
            return Finding("fault", subject, f"has not ended after {waited:.0f} s", f"kubectl describe job {job}")
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _waits(api: KubernetesApi, job: str, pod: StepPod | None, environment: Environment) -> str:
    """Return what keeps the pod from starting, or from being created: a quota, Pod Security; empty if nothing does."""
    name = pod.name if pod else job
    events = api.get(api.in_namespace("events"), fieldSelector=f"involvedObject.name={name}").get("items") or []
    if pod:
        reason = waiting_for(pod, events, environment)
        return str(reason) if reason else ""
    refused = [event for event in events if event.get("reason") == "FailedCreate"]
    return f"is refused: {refused[-1].get('message', '')}" if refused else ""
