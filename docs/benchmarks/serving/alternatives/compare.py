"""Continuous batches beside LitServe's and Ray Serve's, with the same model, pages and clients; about 12 minutes:

    python -m venv /tmp/alternatives && /tmp/alternatives/bin/pip install litserve "ray[serve]"
    OMP_NUM_THREADS=1 /tmp/alternatives/bin/python docs/benchmarks/serving/alternatives/compare.py --output compare.json

(with this project in the same environment). Every second page has a line, the others a full page of text. Each server
computes with one thread and batches of at most 16 pages; windows wait 5 or 100 ms for more pages, and the better one
counts. First the clients never pause; then pages arrive at random times, as many a second for all servers: --load of
the first one's rate. CPU seconds are those of the server's processes; they compare on a busy machine, too.
"""

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from load import Answer, open_loop, percentiles, reader, saturated  # noqa: E402
from service_process import as_file, drawn  # noqa: E402

ROWS = 16
LINE = "a short page with a line of text"
FULL = "\n".join(f"{number}. The quick brown fox jumps over it and reads on" for number in range(1, 17))
PAGES = [as_file(drawn(LINE, 700, 56)), as_file(drawn(FULL, 700, 560))]
_BOUND = 600.0  # seconds until a server must read


def _lit(*arguments: str) -> list[str]:
    return [str(HERE / "lit_server.py"), "{port}", *arguments]


def _ray(*arguments: str) -> list[str]:
    return [str(HERE / "ray_server.py"), "{port}", *arguments]


_OURS = ["-m", "components.serve", "--port", "{port}", "--max_batch_size", str(ROWS)]
SERVERS: dict[str, list[str]] = {
    "this service": [*_OURS, "--request_timeout_seconds", "600"],
    "LitServe, windows, generate, 5 ms": _lit("windows", "generate", str(ROWS), "0.005"),
    "LitServe, windows, our steps, 5 ms": _lit("windows", "rows", str(ROWS), "0.005"),
    "LitServe, windows, our steps, 100 ms": _lit("windows", "rows", str(ROWS), "0.1"),
    "LitServe, continuous loop, our steps": _lit("continuous", "rows", str(ROWS), "0"),
    "Ray Serve, windows, our steps, 5 ms": _ray("rows", str(ROWS), "0.005"),
    "Ray Serve, windows, our steps, 100 ms": _ray("rows", str(ROWS), "0.1"),
}


def main() -> None:
    """Measure each server, and write the files after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each part")
    parser.add_argument("--load", type=float, default=0.5)
    parser.add_argument("--servers", nargs="+", choices=list(SERVERS), default=list(SERVERS))
    options = parser.parse_args()
    content: dict[str, Any] = {"cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "rows": ROWS, "servers": {}}
    servers, rate = content["servers"], 0.0
    for name in options.servers:
        try:
            with _running(SERVERS[name]) as (send, process):
                full = _measured(process, lambda send=send: saturated(send, 2 * ROWS, options.seconds, ROWS))
                rate = rate or options.load * full["pages_per_second"]
                servers[name] = {"saturated": full, "load": _loaded(process, send, rate, 1.5 * options.seconds)}
        except Exception as error:
            servers[name] = {"not_measured": f"{type(error).__name__}: {str(error)[-2000:]}"}
        _write(options.output, content)
    print(table(content))


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[Callable[[int, float], Answer], psutil.Process]]:
    """Yield what sends a page, and the server's process; every process of it has ended afterwards."""
    port = _free_port()
    variables = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "DEEPSYNTH_LOG": "text"}
    log = Path(f"/tmp/alternative-{port}.log")
    with log.open("w") as output:
        started = [sys.executable, *[part.format(port=port) for part in command]]
        process = subprocess.Popen(started, stdout=output, stderr=output, env=variables, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    send = reader(url, PAGES) if "components.serve" in command else _predict(url)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + _BOUND
        while send(0, time.perf_counter()).status != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(0.5)
        family = _family(process.pid)
        yield send, family[0]
    finally:
        family = family or (_family(process.pid) if process.poll() is None else [])
        process.send_signal(signal.SIGTERM)
        psutil.wait_procs(family, timeout=20)
        for each in family:
            if each.is_running():
                each.kill()
        process.wait()
        log.unlink()


def _family(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def _predict(url: str) -> Callable[[int, float], Answer]:
    """Return what sends a page to ``/predict``; a stream's pieces are joined."""
    bodies = [{"page": base64.b64encode(page).decode()} for page in PAGES]

    def send(number: int, started: float) -> Answer:
        try:
            response = requests.post(f"{url}/predict", json=bodies[number % len(bodies)], timeout=600)
            ended = time.perf_counter()
            if response.status_code != 200:
                return Answer(response.status_code, started, ended, number=number)
            text = "".join(json.loads(line)["text"] for line in response.text.splitlines())
        except requests.RequestException as error:
            return Answer(type(error).__name__, started, time.perf_counter(), number=number)
        return Answer(200, started, ended, text=text, number=number)

    return send


def _measured(process: psutil.Process, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    before = _cpu_seconds(process)
    found = measure()
    answered = found["answered"] or 1
    return found | {"cpu_seconds_per_page": round((_cpu_seconds(process) - before) / answered, 4)}


def _loaded(process: psutil.Process, send: Callable[[int, float], Answer], rate: float, seconds: float) -> dict:
    answers: list[Answer] = []

    def kept(number: int, started: float) -> Answer:
        answers.append(send(number, started))
        return answers[-1]

    found = _measured(process, lambda: open_loop(kept, rate, seconds))
    for kind, rest in (("line", 0), ("full page", 1)):
        found[kind] = percentiles([answer for answer in answers if answer.number % 2 == rest])
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += sum(each.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def table(content: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    head = "| | pages/s | CPU s a page | texts | at pages/s | a line: p50 | p95 | a full page: p50 | p95 | failed |"
    lines = [head, "| --- |" + " ---: |" * 9]
    for name, server in content["servers"].items():
        if problem := server.get("not_measured"):
            lines.append(f"| {name} | not measured: {problem.splitlines()[-1][:200]} |" + " |" * 8)
            continue
        full, load = server["saturated"], server.get("load", {})
        cells = [f"{full['pages_per_second']:.2f}", f"{full['cpu_seconds_per_page']:.3f}", full["different_texts"]]
        cells.append(load.get("per_second_offered", ""))
        for kind in ("line", "full page"):
            cells += [f"{load[kind][f'p{each}_seconds'] or 0:.2f} s" if load else "" for each in (50, 95)]
        cells.append(full["failed"] + load.get("failed", 0))
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(content), encoding="utf-8")


if __name__ == "__main__":
    main()
