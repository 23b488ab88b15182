"""Measure the service from another process, on loopback:

    python docs/benchmarks/serving/serving_speed.py --output docs/benchmarks/serving/cpu.json

In one run, so that the figures can be divided by each other: pages per second one page at a time and in batches, the
share of a lone request's time that is not the engine's, and the latencies at 50 % and 90 % of the batched rate, with
arrivals at random (exponential gaps).
"""

import argparse
import base64
import io
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests
from PIL import Image, ImageDraw

TEXT = (
    "The quick brown fox jumps over the lazy dog and\nreads a page of plain text in a service that\n"
    "batches pages of many clients. Each line adds\nsome tokens to the answer of the model."
)


def main() -> None:
    """Run all parts and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=int, default=96, help="pages of each part")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="tiny-base")
    options = parser.parse_args()
    page = _page()
    figures: dict[str, object] = {"machine": platform.machine(), "cpus": os.cpu_count(), "pages": options.pages}
    with _service(options.model, 1) as url:
        figures["one page at a time"] = one = _saturated(url, page, options.pages, options.batch)
        figures["a lone request"] = _lone(url, page, options.pages // 4)
    with _service(options.model, options.batch) as url:
        figures[f"batches of {options.batch}"] = many = _saturated(url, page, options.pages, 2 * options.batch)
        for load in (0.5, 0.9):
            rate = load * many["pages_per_second"]
            figures[f"at {load:.0%} load"] = _open_loop(url, page, options.pages, rate)
    figures["batched / unbatched"] = round(many["pages_per_second"] / one["pages_per_second"], 2)
    options.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def _page() -> bytes:
    page = Image.new("L", (700, 160), "white")
    ImageDraw.Draw(page).multiline_text((12, 12), TEXT, fill="black", font_size=24)
    stream = io.BytesIO()
    page.save(stream, format="PNG")
    return stream.getvalue()


@contextmanager
def _service(model: str, batch: int) -> Iterator[str]:
    command = [
        sys.executable,
        "-m",
        "components.serve",
        "--port",
        "0",
        "--model",
        model,
        "--max_batch_size",
        str(batch),
    ]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "DEEPSYNTH_LOG": "text"})
        try:
            while True:
                log.seek(0)
                text = log.read()
                if found := re.search(r"listening on (http://\S+)", text):
                    break
                if process.poll() is not None:
                    raise RuntimeError(text)
                time.sleep(0.1)
            while requests.get(f"{found[1]}/health/ready", timeout=60).status_code != 200:
                time.sleep(0.1)
            _read(found[1], _page())
            yield found[1]
        finally:
            process.terminate()
            process.wait()


def _read(url: str, page: bytes) -> tuple[float, dict]:
    started = time.perf_counter()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(page).decode()}"}}
    wish = {"messages": [{"role": "user", "content": [picture]}]}
    answer = requests.post(f"{url}/v1/chat/completions", json=wish, timeout=600)
    answer.raise_for_status()
    return time.perf_counter() - started, answer.json()


def _saturated(url: str, page: bytes, pages: int, clients: int) -> dict[str, float]:
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda _: _read(url, page), range(pages)))
    seconds = time.perf_counter() - started
    tokens = sum(answer["usage"]["completion_tokens"] for _, answer in found)
    texts = {answer["choices"][0]["message"]["content"] for _, answer in found}
    return {
        "pages_per_second": round(pages / seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_page": round(tokens / pages, 1),
        "different_texts": len(texts),
    }


def _lone(url: str, page: bytes, pages: int) -> dict[str, float]:
    """Return the seconds of requests one after the other, and how much of them the engine's phases are not."""
    whole, inside = [], []
    for _ in range(pages):
        seconds, answer = _read(url, page)
        whole.append(seconds)
        inside.append(sum(answer["deepsynth"]["pages"][0]["seconds"].values()))
    share = [1 - part / total for part, total in zip(inside, whole, strict=True)]
    return {
        "median_seconds": round(statistics.median(whole), 4),
        "median_engine_seconds": round(statistics.median(inside), 4),
        "median_http_share": round(statistics.median(share), 4),
    }


def _open_loop(url: str, page: bytes, pages: int, rate: float) -> dict[str, float]:
    """Send pages at random times, whatever the service does, and return the latencies."""
    chance, started = random.Random(0), time.perf_counter()
    with ThreadPoolExecutor(pages) as pool:
        futures, due = [], 0.0
        for _ in range(pages):
            due += chance.expovariate(rate)
            time.sleep(max(0.0, started + due - time.perf_counter()))
            futures.append(pool.submit(_read, url, page))
        seconds = sorted(future.result()[0] for future in futures)
    return {
        "pages_per_second_offered": round(rate, 3),
        **{
            f"p{percent}_seconds": round(seconds[min(pages - 1, pages * percent // 100)], 4) for percent in (50, 95, 99)
        },
    }


if __name__ == "__main__":
    main()
