"""The REST API v2beta1 of Kubeflow Pipelines 2.17, as far as this project calls it, over real HTTP.

No KFP server can be had where these tests run, so this one checks requests like the API server does
(backend/src/apiserver/server: pipeline_upload_server.go, run_server.go, recurring_run_server.go), reads uploaded
packages with KFP's own message types, and lets runs go through the states that a test gives.
"""

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

Timeline = list[tuple[str, dict[str, str]]]
SUCCESS: Timeline = [
    ("PENDING", {}),
    (
        "RUNNING",
        {"root-driver": "SUCCEEDED", "root": "RUNNING", "configure-driver": "SUCCEEDED", "configure": "RUNNING"},
    ),
    ("RUNNING", {"configure": "SUCCEEDED", "exit-handler-1": "RUNNING", "prepare": "SUCCEEDED", "train": "RUNNING"}),
    ("SUCCEEDED", {"configure": "SUCCEEDED", "prepare": "SUCCEEDED", "train": "SUCCEEDED", "close-run": "SUCCEEDED"}),
]
"""What each look at a run finds: its state, and those of its tasks; the last one stays."""
_BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


class RefusedError(Exception):
    """A request that KFP would refuse."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class FakeKfp:
    """What the server holds, and how it behaves."""

    url: str = ""
    multi_user: bool = False
    token: str | None = None
    cookie: str | None = None
    timeline: Timeline = field(default_factory=lambda: list(SUCCESS))
    errors: dict[str, str] = field(default_factory=dict)
    """task -> the error of its pod, where it fails"""
    troubles: list[int] = field(default_factory=list)
    """statuses that the next looks at a run get instead of an answer"""
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, content_type: str) -> Any:
        """Return the JSON value that answers a request below /apis/v2beta1."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        match method, parts:
            case "GET", ["healthz"]:
                return {"multi_user": self.multi_user}
            case "GET", ["pipelines"]:
                return self._page(self.pipelines, "pipelines", query)
            case "POST", ["pipelines"]:
                return self._made(self.pipelines, "pipeline_id", json.loads(body), "pipeline")
            case "POST", ["pipelines", "upload_version"]:
                return self._uploaded(query, body, content_type)
            case "GET", ["pipelines", pipeline, "versions"]:
                self._known(self.pipelines, pipeline)
                own = {key: one for key, one in self.versions.items() if one["pipeline_id"] == pipeline}
                return self._page(own, "pipeline_versions", query)
            case "GET", ["pipelines", _, "versions", version]:
                return self._known(self.versions, version)
            case "GET", ["experiments"]:
                return self._page(self.experiments, "experiments", query)
            case "POST", ["experiments"]:
                return self._made(self.experiments, "experiment_id", json.loads(body), "experiment")
            case "POST", ["runs"]:
                return self._started(json.loads(body))
            case "GET", ["runs", run]:
                return self._look(run)
            case "GET", ["recurringruns"]:
                return self._page(self.recurring, "recurringRuns", query)
            case "POST", ["recurringruns"]:
                return self._scheduled(json.loads(body))
            case (("POST" | "DELETE"), ["recurringruns", name]):
                return self._changed(method, name)
        raise RefusedError(404, f"no such method: {method} {path}")

    def _page(self, items: dict[str, Any], name: str, query: dict[str, str]) -> dict[str, Any]:
        if self.multi_user and name != "pipeline_versions" and not query.get("namespace"):
            raise RefusedError(400, "Namespace is empty in multi-user mode")
        if not self.multi_user and query.get("namespace"):
            raise RefusedError(400, "In single-user mode, the namespace must be empty")
        found = list(items.values())
        if "filter" in query:
            (predicate,) = json.loads(query["filter"])["predicates"]
            assert predicate["operation"] == "EQUALS"
            found = [one for one in found if one[predicate["key"]] == predicate["stringValue"]]
        start = int(query.get("page_token") or 0)
        # Two a page, so that whoever does not turn pages is found out.
        more = {"next_page_token": str(start + 2)} if start + 2 < len(found) else {}
        return {name: found[start : start + 2], **more}

    def _known(self, items: dict[str, Any], key: str) -> Any:
        if key not in items:
            raise RefusedError(404, f"{key} not found")
        return items[key]

    def _made(self, items: dict[str, Any], key: str, wanted: dict[str, Any], kind: str) -> dict[str, Any]:
        if not wanted.get("display_name"):
            raise RefusedError(400, f"The {kind}'s name is empty")
        if bool(wanted.get("namespace")) != self.multi_user:
            raise RefusedError(400, "the namespace must be given in multi-user mode, and only there")
        if any(one["display_name"] == wanted["display_name"] for one in items.values()):
            raise RefusedError(409, f"The {kind} {wanted['display_name']} exists already")
        made = {**wanted, key: str(uuid.uuid4())}
        items[made[key]] = made
        return made

    def _uploaded(self, query: dict[str, str], body: bytes, content_type: str) -> dict[str, Any]:
        message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        (part,) = list(message.iter_parts())
        if part.get_param("name", header="content-disposition") != "uploadfile":
            raise RefusedError(400, "Failed to read pipeline from file")
        self._known(self.pipelines, query["pipelineid"])
        documents = list(yaml.safe_load_all(part.get_payload(decode=True)))
        check_package(documents)
        name = query["name"]
        if not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name):
            raise RefusedError(400, f"Invalid pipeline version name {name}")
        if any(one["name"] == name and one["pipeline_id"] == query["pipelineid"] for one in self.versions.values()):
            raise RefusedError(409, "Failed to create a pipeline version")
        version = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": query.get("display_name") or name,
            "description": query.get("description", ""),
        }
        self.versions[version["pipeline_version_id"]] = version
        self.packages[version["pipeline_version_id"]] = documents
        return version

    def _check_source(self, wanted: dict[str, Any]) -> None:
        if not wanted.get("display_name"):
            raise RefusedError(400, "The run name is empty. Please specify a valid name")
        self._known(self.experiments, wanted["experiment_id"])
        reference = wanted["pipeline_version_reference"]
        version = self._known(self.versions, reference["pipeline_version_id"])
        if version["pipeline_id"] != reference["pipeline_id"]:
            raise RefusedError(400, "the version is of another pipeline")
        inputs = self.packages[version["pipeline_version_id"]][0]["root"]["inputDefinitions"]["parameters"]
        types = {"STRING": str, "BOOLEAN": bool, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float)}
        for name, value in wanted["runtime_config"]["parameters"].items():
            if name not in inputs or not isinstance(value, types[inputs[name]["parameterType"]]):
                raise RefusedError(400, f"parameter {name} is unknown or of another type")

    def _started(self, wanted: dict[str, Any]) -> dict[str, Any]:
        self._check_source(wanted)
        run = {**wanted, "run_id": str(uuid.uuid4()), "state": "PENDING"}
        self.runs[run["run_id"]] = run
        return run

    def _look(self, run_id: str) -> dict[str, Any]:
        run = self._known(self.runs, run_id)
        if self.troubles:
            raise RefusedError(self.troubles.pop(0), "trouble")
        look = self.looks[run_id] = self.looks.get(run_id, -1) + 1
        state, tasks = self.timeline[min(look, len(self.timeline) - 1)]
        details = [task for name, state in tasks.items() for task in self._tasks(run_id, name, state)]
        return {**run, "state": state, "run_details": {"task_details": details}}

    def _tasks(self, run_id: str, name: str, state: str) -> list[dict[str, Any]]:
        """Return a task and the pod below it, as KFP lists the nodes of Argo's workflow."""
        name, _, number = name.partition("#")  # draw-pages#0, draw-pages#1: tasks of one name
        node = f"deepsynth-finetune-x-{name}{number}"
        history: list[dict[str, Any]] = [{"state": state}]
        if state == "FAILED" and name in self.errors:
            history.append({"state": state, "error": {"code": 13, "message": self.errors[name]}})
        task = {"run_id": run_id, "task_id": str(uuid.uuid4()), "display_name": name, "state": state, "pod_name": node}
        pod = task | {"task_id": str(uuid.uuid4()), "display_name": "executor", "pod_name": f"{node}-1"}
        return [
            task | {"state_history": [{"state": state}], "child_tasks": [{"pod_name": f"{node}-1"}]},
            pod | {"state_history": history, "parent_task_id": task["task_id"]},
        ]

    def _scheduled(self, wanted: dict[str, Any]) -> dict[str, Any]:
        self._check_source(wanted)
        if bool(wanted.get("namespace")) != self.multi_user:
            raise RefusedError(400, "Recurring run has no namespace, or one in single-user mode")
        if not 1 <= int(wanted.get("max_concurrency", 0)) <= 10:
            raise RefusedError(400, "The max concurrency of the recurring run is out of range. Support 1-10.")
        check_robfig_cron(wanted["trigger"]["cron_schedule"]["cron"])
        status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[wanted["mode"]]
        made = {**wanted, "recurring_run_id": str(uuid.uuid4()), "status": status}
        self.recurring[made["recurring_run_id"]] = made
        return made

    def _changed(self, method: str, name: str) -> dict[str, Any]:
        key, _, action = name.partition(":")
        recurring = self._known(self.recurring, key)
        if method == "DELETE":
            del self.recurring[key]
        else:
            recurring["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[action]
        return {}


def check_package(documents: list[dict[str, Any]]) -> None:
    """Read a compiled package with KFP's own message types, as its backend does."""
    try:
        json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
        platform = json_format.ParseDict(documents[1], pipeline_spec_pb2.PlatformSpec())
        executors = json_format.MessageToDict(platform)["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for executor in executors.values():
            json_format.ParseDict(executor, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    except (json_format.ParseError, KeyError, IndexError) as error:
        raise RefusedError(400, f"invalid pipeline spec: {error}") from error


def check_robfig_cron(cron: str) -> None:
    """Read six fields like robfig/cron 1.2.0: numbers, lists, ranges and steps; Sunday is 0, and there is no zone."""
    fields = cron.split()
    if len(fields) != 6:
        raise RefusedError(400, f"Schedule cron is not a supported format: Expected 5 to 6 fields, found {len(fields)}")
    for text, (lowest, highest) in zip(fields, _BOUNDS, strict=True):
        for part in text.split(","):
            match = re.fullmatch(r"(?:[*?]|(\d+)(?:-(\d+))?)(?:/\d+)?", part)
            numbers = [int(number) for number in match.groups() if number] if match else [-1]
            if not all(lowest <= number <= highest for number in numbers):
                raise RefusedError(400, f"Schedule cron is not a supported format: {part}")


class _Handler(BaseHTTPRequestHandler):
    kfp: FakeKfp

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        try:
            if self.kfp.token and self.headers.get("authorization") != f"Bearer {self.kfp.token}":
                raise RefusedError(401, "Request header error: there is no user identity header")
            if self.kfp.cookie and self.headers.get("Cookie") != self.kfp.cookie:
                raise RefusedError(401, "no session")
            path = address.path.removeprefix("/apis/v2beta1")
            if path == address.path:
                raise RefusedError(404, "Not Found")
            self._send(200, self.kfp.answer(self.command, path, query, body, self.headers.get("Content-Type", "")))
        except RefusedError as error:
            self._send(error.status, {"error": str(error), "code": 3, "message": str(error), "details": []})

    def _send(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def kfp_api_server() -> Iterator[FakeKfp]:
    """Yield a server on a free port of 127.0.0.1."""
    kfp = FakeKfp()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kfp": kfp}))
    kfp.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield kfp
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
