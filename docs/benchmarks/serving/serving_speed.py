"""Measure the service from another process, on loopback; takes about 5 minutes:

    OMP_NUM_THREADS=1 python docs/benchmarks/serving/serving_speed.py --output docs/benchmarks/serving/cpu.json

In one run, so that the figures can be divided by each other: pages per second one page at a time and in batches, in
turns because the machine's speed changes, with the median round's figures and the median of the rounds' ratios; the
share of a lone request's time that is not the engine's; and the latencies at 50 % and 90 % of the batched rate, with
arrivals at random (Poisson). The same figures as a table are written beside the JSON, as cpu.md.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from load import PERCENTS, Answer, one_by_one, open_loop, reader, saturated
from service_process import TEXT, as_file, drawn, running_service


def main() -> None:
    """Run all parts; the files are written after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=30.0, help="of each part; of those with a load twice as many")
    parser.add_argument("--rounds", type=int, default=5, help="one page at a time and batches, in turns")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="tiny-base")
    options = parser.parse_args()
    seconds, batch, page = options.seconds, options.batch, as_file(drawn(TEXT))
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}"
    content: dict[str, Any] = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "batch": batch}
    content |= {"model": options.model, "threads": os.environ.get("OMP_NUM_THREADS"), "parts": {}}
    parts = content["parts"]
    found: dict[str, list[dict[str, Any]]] = {"one page at a time": [], "batches": []}
    for number in range(options.rounds):
        with running_service("--model", options.model, "--max_batch_size", "1") as service:
            send = reader(service.url, [page])
            one_by_one(send, 0)  # the first page is slower
            found["one page at a time"].append(saturated(send, 4, seconds, 1))
            if not number:
                parts["a lone request"] = _lone(one_by_one(send, seconds / 2))
        with running_service("--model", options.model, "--max_batch_size", str(batch)) as service:
            send = reader(service.url, [page])
            one_by_one(send, 0)
            found["batches"].append(saturated(send, 2 * batch, seconds, batch))
            parts |= {name: _median(rounds) for name, rounds in found.items()}
            _write(options.output, content)
            for load in (0.5, 0.9) if number == options.rounds - 1 else ():
                rate = load * parts["batches"]["pages_per_second"]
                parts[f"batches, at {round(load * 100)} % of that rate"] = open_loop(send, rate, 2 * seconds)
                _write(options.output, content)
    print(options.output.with_suffix(".md").read_text())


def _median(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the round of the median rate, with the rates of all."""
    rates = [one["pages_per_second"] for one in rounds]
    return {**rounds[rates.index(statistics.median_low(rates))], "pages_per_second_of_rounds": rates}


def _lone(answers: list[Answer]) -> dict[str, Any]:
    """Return the seconds of requests one after the other, and how much of them the engine's phases are not."""
    outside = [answer.seconds - answer.engine_seconds for answer in answers]
    pairs = list(zip(outside, answers, strict=True))
    return {
        "requests": len(answers),
        "median_seconds": round(statistics.median(answer.seconds for answer in answers), 4),
        "median_engine_seconds": round(statistics.median(answer.engine_seconds for answer in answers), 4),
        "median_http_share_of_engine": round(statistics.median(out / one.engine_seconds for out, one in pairs), 4),
    }


def table(content: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    parts, batches = content["parts"], f"batches of {content['batch']}"
    lines = ["| | pages/s | requests | failed | p50 | p95 | p99 |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, part in parts.items():
        if name == "a lone request":
            continue
        rate = f"{part.get('pages_per_second', part.get('per_second_offered')):.2f}"
        if name == "batches":
            singly = parts["one page at a time"]["pages_per_second_of_rounds"]
            ratios = [one / alone for one, alone in zip(part["pages_per_second_of_rounds"], singly, strict=True)]
            rate += f" ({statistics.median(ratios):.2f} times, {min(ratios):.2f} to {max(ratios):.2f})"
        times = " | ".join(f"{part[f'p{percent}_seconds'] or 0:.2f} s" for percent in PERCENTS)
        counted = part.get("requests", part.get("pages"))
        lines.append(f"| {name.replace('batches', batches)} | {rate} | {counted} | {part['failed']} | {times} |")
    if alone := parts.get("a lone request"):
        said = f"median of {alone['requests']} lone requests of {alone['median_seconds']:.3f} s"
        share = f"{alone['median_http_share_of_engine']:.2%}"
        lines += ["", f"HTTP, JSON, base64 and decoding the picture: {share} of the model's time ({said})."]
    return "\n".join([*lines, ""])


def _write(path: Path, content: dict[str, Any]) -> None:
    for name, text in ((path, json.dumps(content, indent=1) + "\n"), (path.with_suffix(".md"), table(content))):
        beside = name.with_name(f".{name.name}")
        beside.write_text(text, encoding="utf-8")
        beside.replace(name)


if __name__ == "__main__":
    main()
