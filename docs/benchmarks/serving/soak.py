"""An hour of all kinds of requests: does the service's memory stay flat?

    nice -n 10 env OMP_NUM_THREADS=1 python docs/benchmarks/serving/soak.py --minutes 60 --output soak.json

The service reads with the bundled base on the CPU; this process sends the requests at random times. Every 30 s the
file gets the service's memory, open files, threads and Python objects. The verdict is a line through the means of three
minutes each, after the first quarter of the time, with the 95 % interval of its slope. After that quarter and at the
end, the sending pauses and the service collects its garbage, so that exact numbers of objects can be compared.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psutil
from service_process import Service, running_service
from soak_requests import ADMIN, FLAGS, Requester

_SECONDS_BETWEEN_SAMPLES = 30.0
_MINUTES_OF_A_MEAN = 3  # neighbouring samples are not independent, and the interval needs points that nearly are


def main() -> None:
    """Start the service, send requests, write samples and the verdict."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--per-second", type=float, default=1.0, help="requests per second")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "objects.json"
        adapter = _save_adapter(Path(folder) / "adapter")
        counted = (str(Path(__file__).resolve().with_name("counted_service.py")), str(counts))
        token = {"DEEPSYNTH_SERVE_ADMIN_TOKEN": ADMIN["Authorization"].split()[1]}
        with running_service(*FLAGS, command=counted, variables=token) as service:
            content = _soaked(service, counts, adapter, options)
        content["exit_code"] = service.process.returncode
    content["verdict"] = verdict(content["samples"])
    _write(options.output, content)
    print(json.dumps({name: content[name] for name in ("requests", "unexpected", "verdict", "exit_code")}, indent=1))


def _soaked(service: Service, counts: Path, adapter: Path, options: argparse.Namespace) -> dict[str, Any]:
    requester = Requester(service.url, adapter)
    content: dict[str, Any] = {"command": " ".join(sys.argv), "cpus": os.cpu_count(), "flags": FLAGS}
    samples: list[dict[str, Any]] = []
    content |= {"requests": requester.found, "unexpected": requester.unexpected, "samples": samples}
    chance, started, process = random.Random(0), time.monotonic(), psutil.Process(service.process.pid)
    next_request = next_sample = started
    content["collected"] = collected = list[dict[str, Any]]()
    sent = list[Future[None]]()
    with ThreadPoolExecutor(8) as pool:
        while (now := time.monotonic()) < started + options.minutes * 60 and service.process.poll() is None:
            if now >= next_sample:
                samples.append({"minute": round((now - started) / 60, 2), **_sample(process, counts)})
                _write(options.output, content)
                next_sample += _SECONDS_BETWEEN_SAMPLES
            if not collected and now >= started + options.minutes * 15:
                collected.append(_collected(service, counts, sent, now - started))
                next_request = time.monotonic()
            if now >= next_request:
                sent.append(pool.submit(requester.send, chance.randrange(1 << 30)))
                next_request += chance.expovariate(options.per_second)
            time.sleep(max(0.0, min(next_request, next_sample) - time.monotonic()))
        if service.process.poll() is None:
            collected.append(_collected(service, counts, sent, time.monotonic() - started))
    return content


def _collected(service: Service, counts: Path, sent: list[Future[None]], seconds: float) -> dict[str, Any]:
    """Return what is in the service's memory when no request is in flight and its garbage is collected."""
    wait(sent)
    time.sleep(2.0)  # connections that clients left
    before = json.loads(counts.read_text())["collections"]
    service.process.send_signal(signal.SIGUSR1)
    while (inside := json.loads(counts.read_text()))["collections"] == before:
        time.sleep(0.1)
    return {"minute": round(seconds / 60, 2), "requests": len(sent), **inside}


def _save_adapter(folder: Path) -> Path:
    """Save an adapter of the base as PEFT makes it."""
    import torch
    from peft import LoraConfig, get_peft_model

    from components.shared.models.model_loading import default_dtype, load_model

    device = torch.device("cpu")
    model: Any = load_model("tiny-base", dtype=default_dtype(device), device=device)
    get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"])).save_pretrained(folder)
    return folder


def _sample(process: psutil.Process, counts: Path) -> dict[str, Any]:
    memory, children = process.memory_full_info(), process.children(recursive=True)
    return {
        "rss_mib": round(memory.rss / 2**20, 3),
        "uss_mib": round(memory.uss / 2**20, 3),
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(children),
        "cpu_seconds": round(sum(process.cpu_times()[:2]), 2),
        "inside": _without_kinds(json.loads(counts.read_text())) if counts.exists() else {},
    }


def _without_kinds(inside: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inside.items() if name != "kinds"}


def verdict(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the slope of each figure per hour after the first quarter, with its 95 % interval."""
    from scipy import stats

    last = samples[-1]["minute"]
    kept = [sample for sample in samples if sample["minute"] >= last / 4]
    found: dict[str, Any] = {"from_minute": kept[0]["minute"], "to_minute": last}
    figures = {
        name: [float(sample[name]) for sample in kept] for name in ("rss_mib", "uss_mib", "open_files", "threads")
    }
    for name in ("objects", "blocks", "malloc_used_mib"):
        figures[name] = [float(sample["inside"].get(name, 0)) for sample in kept]
    for name, values in figures.items():
        groups: dict[int, list[tuple[float, float]]] = {}
        for sample, value in zip(kept, values, strict=True):
            groups.setdefault(int(sample["minute"] // _MINUTES_OF_A_MEAN), []).append((sample["minute"] / 60, value))
        hours, means = zip(
            *[[sum(each) / len(each) for each in zip(*group, strict=True)] for group in groups.values()], strict=True
        )
        mean = sum(means) / len(means)
        found[name] = {"mean": round(mean, 2), "lowest": min(values), "highest": max(values)}
        if len(means) > 2 and len(set(means)) > 1:
            line = stats.linregress(hours, means)
            half = stats.t.ppf(0.975, len(means) - 2) * line.stderr
            found[name] |= {
                "per_hour": round(float(line.slope), 3),
                "interval": [round(float(line.slope - half), 3), round(float(line.slope + half), 3)],
                "percent_per_hour": round(float(100 * line.slope / mean), 3) if mean else 0.0,
            }
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)


if __name__ == "__main__":
    main()
