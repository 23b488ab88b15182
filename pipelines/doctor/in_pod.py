"""What a step's pod sees: whether it may write its volumes, and whether MLflow and KFP's bucket take files.

    python -m pipelines.doctor.in_pod '{"volumes": {"CLAIM": "/checkpoints"}, "mlflow": "http://mlflow.deepsynth:5000"}'

``deepsynth doctor`` starts it in a Job like a step's pod, so it needs only what the steps' images have. Each finding is
a line of JSON on standard output; other lines are the libraries'.
"""

import json
import os
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.shared.programs.access_rights import not_writable
from pipelines.doctor.finding import Finding
from pipelines.doctor.mlflow_checks import server_findings

ACCESS_KEY, SECRET_KEY = "DEEPSYNTH_BUCKET_ACCESS_KEY", "DEEPSYNTH_BUCKET_SECRET_KEY"
_SECONDS_TO_ANSWER = 20


def main(request: str) -> None:
    """Print what was found; ``request`` is the JSON text that ``pod_checks`` makes."""
    asked = json.loads(request)
    for finding in _findings(asked):
        print(json.dumps(asdict(finding)), flush=True)


def findings_in(lines: Iterable[str]) -> Iterator[Finding]:
    """Yield the findings in the log of a pod that ran this program."""
    for line in lines:
        try:
            yield Finding(**json.loads(line))
        except (ValueError, TypeError):  # a line of a library
            continue


def _findings(asked: dict[str, Any]) -> Iterator[Finding]:
    groups = ", ".join(map(str, sorted({os.getgid(), *os.getgroups()})))
    yield Finding("ok", "a step's pod", f"runs as user {os.getuid()}, groups {groups}")
    for claim, folder in asked.get("volumes", {}).items():
        yield _volume(claim, Path(folder))
    if uri := asked.get("mlflow"):
        mend = (
            "look at MLflow's pods, its Service, and its network policy, which names the runs' namespace:"
            " kubectl get pods,networkpolicy --namespace deepsynth"
        )
        for finding in server_findings(uri, lambda reason: Finding("fault", "MLflow", f"{uri}: {reason}", mend)):
            yield Finding(finding.state, f"{finding.subject} from a pod", finding.detail, finding.mend)
    if bucket := asked.get("bucket"):
        yield _bucket(bucket)


def _volume(claim: str, folder: Path) -> Finding:
    subject = f"volume {claim} from a pod"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".deepsynth-doctor-") as file:
            file.write(b"written")
            file.flush()
    except OSError as error:
        refused = not_writable(error, str(folder), folder)
        return Finding("fault", subject, f"{folder} {refused.problem}", refused.mend or "")
    return Finding("ok", subject, f"{folder} can be written")


def _bucket(bucket: dict[str, Any]) -> Finding:
    """Put a file into KFP's bucket and read it back, as KFP's launcher does for artifacts."""
    from pyarrow import fs

    subject, place = "KFP's bucket from a pod", f"{bucket['name']} at {bucket['endpoint'] or 'S3'}"
    key, content = f"{bucket['name']}/deepsynth-doctor-{uuid.uuid4()}", b"written"
    mend = "see defaultPipelineRoot and providers in ConfigMap kfp-launcher, and the Secret with the keys"
    try:
        store = fs.S3FileSystem(
            access_key=os.environ.get(ACCESS_KEY),
            secret_key=os.environ.get(SECRET_KEY),
            endpoint_override=bucket["endpoint"] or None,
            scheme=bucket["scheme"],
            region=bucket["region"],
            connect_timeout=_SECONDS_TO_ANSWER,
            request_timeout=_SECONDS_TO_ANSWER,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
        )
        if store.get_file_info(bucket["name"]).type == fs.FileType.NotFound:
            return Finding("fault", subject, f"{place} does not exist", f"create it, or {mend}")
        with store.open_output_stream(key) as stream:
            stream.write(content)
        with store.open_input_stream(key) as stream:
            read = stream.read()
        store.delete_file(key)
    except (OSError, ValueError) as error:
        return Finding("fault", subject, f"{place}: {' '.join(str(error).split())[:300]}", mend)
    if read != content:
        return Finding("fault", subject, f"{place}: a file came back with other content", mend)
    return Finding("ok", subject, f"{place}: a file was put and read back")


if __name__ == "__main__":
    main(sys.argv[1])
