"""Kill -9 of the service, of its children and of MLflow, and versions swapped, all while clients read; 4 minutes:

    OMP_NUM_THREADS=1 python docs/benchmarks/serving/kills.py --output docs/benchmarks/serving/kills.json

Clients never pause. Each request ends with a page's text or with an error; a request that ends with neither would be a
lost one (none may be), and a text that is not that of the version named in the answer a mixed one. The same table is
written beside the JSON. A part that fails is written down as such, and the others go on.
"""

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import requests
from kill_clients import BOUND, PAGE, Clients, Ended
from registry import kill, mlflow_server, registered
from service_process import as_file, drawn, running_service

from components.shared.tracking.model_registry import set_alias

ADMIN = {"Authorization": "Bearer the-administrators-token-of-the-kills"}
FLAGS = ("--max_batch_size", "8", "--max_new_tokens", "24", "--base_model", "tiny-base")


def is_read(entry: Ended) -> bool:
    """Return whether the page was read."""
    return entry.read


def killed_service(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Kill the service's process; a supervisor starts it again on the same port, as Kubernetes would."""
    port = _free_port()
    command = [sys.executable, "-m", "components.serve", "--model", "tiny-base", "--port", str(port), *FLAGS]
    log = (folder / "killed-service.log").open("w")
    url, started = f"http://127.0.0.1:{port}", time.monotonic()
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with Clients(url, 8) as clients:
            first = clients.wait_for(is_read, started)
            time.sleep(options.seconds)
            killed = time.monotonic()
            process.kill()
            process.wait()
            process = subprocess.Popen(command, stdout=log, stderr=log)
            back = clients.wait_for(is_read, killed)
            time.sleep(options.seconds)
    finally:
        process.kill()
        process.wait()
        log.close()
    after = [entry for entry in clients.ended if entry.at >= killed]
    failed = [entry for entry in after if not entry.read]
    reset = [entry for entry in failed if entry.at < killed + 1.0]
    return {
        **clients.figures(),
        "start_seconds": round(first - started, 2),
        "recovery_seconds": round(back - killed, 2),
        "errors_in_the_first_second": len(reset),
        "errors_after_it_was_back": sum(not entry.read for entry in after if entry.at > back),
    }


def killed_children(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Kill every child process that the service has while it reads PDFs; it has to start new ones."""
    pdf = as_file(drawn("one", 160, 56), drawn("two", 160, 56), kind="PDF")
    with running_service("--model", "tiny-base", *FLAGS) as service:

        def read() -> int:
            return requests.post(f"{service.url}/v1/ocr", files={"file": pdf}, timeout=BOUND).status_code

        before, children = read(), psutil.Process(service.process.pid).children(recursive=True)
        with Clients(service.url, 4) as clients:
            killed = time.monotonic()
            for child in children:
                child.kill()
            statuses, back = [], 0.0
            while not back and time.monotonic() < killed + BOUND:
                statuses.append(read())
                back = time.monotonic() if statuses[-1] == 200 else 0.0
            time.sleep(options.seconds)
    found = {"children": len(children), "pdf_before": before, "pdf_after": dict(Counter(map(str, statuses)))}
    return {**clients.figures(), **found, "recovery_seconds": round(back - killed, 2) if children else None}


def killed_mlflow(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Kill MLflow while its aliases are followed; start it again, move the alias, and wait for the new version."""
    port = _free_port()
    uri = f"http://127.0.0.1:{port}"
    server = mlflow_server(folder, port)
    try:
        versions = registered(folder, uri)
        followed = ("--model", "models:/reader@champion", "--registry_poll_seconds", "1")
        with (
            running_service(*followed, *FLAGS, variables={"MLFLOW_TRACKING_URI": uri}) as service,
            Clients(service.url, 8) as clients,
        ):
            clients.wait_for(is_read, time.monotonic())
            killed = time.monotonic()
            kill(server)
            noticed = _when(lambda: service.metrics().get('deepsynth_serve_failures_total{reason="registry"}', 0) > 0)
            time.sleep(options.seconds)
            server = mlflow_server(folder, port)
            up = time.monotonic()
            set_alias(versions[1], "champion", uri=uri)
            moved = time.monotonic()
            new = clients.wait_for(lambda entry: entry.version == "reader-2", up)
    finally:
        kill(server)
    read = Counter(version for _, outcome, version, _ in clients.ended if outcome == "200")
    return {
        **clients.figures(),
        "noticed_after_seconds": round(noticed - killed, 2),
        "down_seconds": round(up - killed, 2),
        "recovery_seconds": round(new - moved, 2),
        "read_by": dict(read),
    }


def killed_vllm(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Kill the vLLM server that the service started, and later the engine of the next one; the service starts others.

    What is left of a killed server must end by itself: its engine and workers are processes of their own.
    """
    flags = ["--engine", "vllm", "--vllm_python", str(options.vllm_python), "--model", str(options.vllm_model)]
    flags += ["--vllm_arguments", json.dumps(shlex.split(options.vllm_arguments)), "--max_new_tokens", "24"]
    found: dict[str, Any] = {}
    began = time.monotonic()
    with running_service(*flags) as service, Clients(service.url, 4) as clients:
        clients.wait_for(is_read, began)
        found["start_seconds"] = round(time.monotonic() - began, 2)
        for name, key in (("server", "recovery_seconds"), ("engine", "recovery_from_a_killed_engine_seconds")):
            time.sleep(options.seconds)
            server = _vllm_server(service.process.pid)
            processes = [server, *server.children(recursive=True)]
            killed = time.monotonic()
            (server if name == "server" else _engine_of(server)).kill()
            _when(lambda ended=processes: not any(map(_runs, ended)))
            found[f"{name}_all_{len(processes)}_processes_gone_seconds"] = round(time.monotonic() - killed, 2)
            answer = clients.wait_for(lambda entry: not entry.read, killed)
            found[f"{name}_first_error_seconds"] = round(answer - killed, 2)
            found[key] = round(clients.wait_for(is_read, answer) - killed, 2)
        time.sleep(options.seconds)
    return {**clients.figures(), **found}


def _vllm_server(service: int) -> psutil.Process:
    children = psutil.Process(service).children()
    return next(child for child in children if "vllm.entrypoints.openai.api_server" in child.cmdline())


def _engine_of(server: psutil.Process) -> psutil.Process:
    """Return the child with the most memory: the others track resources, or watch."""
    return max(server.children(), key=lambda child: child.memory_info().rss)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def swapped(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Move an alias again and again under load, and compare each text with what its version reads alone."""
    uri = f"sqlite:///{folder / 'swaps.db'}"
    registered(folder / "swaps", uri)
    followed = ("--model", "models:/reader@champion", "--registry_poll_seconds", "0")
    variables = {"MLFLOW_TRACKING_URI": uri, "DEEPSYNTH_SERVE_ADMIN_TOKEN": ADMIN["Authorization"].split()[1]}
    with running_service(*followed, *FLAGS, variables=variables) as service:
        loaded = {"source": "models:/reader/2"}
        requests.post(f"{service.url}/admin/models", json=loaded, headers=ADMIN, timeout=BOUND).raise_for_status()
        names, swaps = ("reader-1", "reader-2"), 0
        alone = {name: _text(service.url, name) for name in names}
        with Clients(service.url, 16, "@champion") as clients:
            clients.wait_for(is_read, time.monotonic())
            until = time.monotonic() + max(10.0, 6 * options.seconds)
            while time.monotonic() < until:
                swaps += 1
                address, version = f"{service.url}/admin/aliases/@champion", {"version": names[swaps % 2]}
                requests.put(address, json=version, headers=ADMIN, timeout=BOUND).raise_for_status()
                time.sleep(0.2)
    good = [entry for entry in clients.ended if entry.read]
    mixed = sum(text != alone.get(version) for _, _, version, text in good)
    found = {"swaps": swaps, "read_by": dict(Counter(version for _, _, version, _ in good)), "mixed": mixed}
    return {
        **clients.figures(),
        **found,
        "failed": len(clients.ended) - len(good),
        "texts_differ": len(set(alone.values())) == 2,
    }


def _text(url: str, model: str) -> str:
    answer = requests.post(f"{url}/v1/ocr", files={"file": PAGE}, data={"model": model}, timeout=BOUND)
    answer.raise_for_status()
    return str(answer.json()["pages"][0]["text"])


def _when(condition: Callable[[], bool]) -> float:
    deadline = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("nothing came within the bound")
        time.sleep(0.05)
    return time.monotonic()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "kill -9 of the service": killed_service,
    "kill -9 of its children": killed_children,
    "kill -9 of MLflow": killed_mlflow,
    "kill -9 of vLLM": killed_vllm,
    "versions swapped": swapped,
}


def main() -> None:
    """Run the parts one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load before and after each kill")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--add", action="store_true", help="keep the other parts that the output has")
    parser.add_argument("--vllm-python", type=Path, help="without it, vLLM is not killed")
    parser.add_argument("--vllm-model", type=Path, help="folder of a model that vLLM serves")
    parser.add_argument("--vllm-arguments", default="", help="of the vLLM server, in one word with =")
    options = parser.parse_args()
    if options.vllm_python is None:
        options.parts = [name for name in options.parts if PARTS[name] is not killed_vllm]
    content: dict[str, Any] = {"cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "parts": {}}
    if options.add:
        content["parts"] = json.loads(options.output.read_text(encoding="utf-8"))["parts"]
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            try:
                content["parts"][name] = PARTS[name](Path(folder), options)
            except Exception as error:
                content["parts"][name] = {"not_measured": f"{type(error).__name__}: {str(error)[-1000:]}"}
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        options.output.with_suffix(".md").write_text(table(content), encoding="utf-8")
    print(table(content))


def table(content: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = ["| | requests | by outcome | lost | recovery | |", "| --- | ---: | --- | ---: | ---: | --- |"]
    for name, part in content["parts"].items():
        if problem := part.get("not_measured"):
            lines.append(f"| {name} | not measured: {problem.splitlines()[-1]} | | | | |")
            continue
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(part["outcomes"].items()))
        seconds = part.get("recovery_seconds")
        shown = {"requests", "outcomes", "lost", "recovery_seconds"}
        others = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in part.items() if key not in shown)
        recovery = "" if seconds is None else f"{seconds} s"
        lines.append(f"| {name} | {part['requests']} | {outcomes} | {part['lost']} | {recovery} | {others} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
