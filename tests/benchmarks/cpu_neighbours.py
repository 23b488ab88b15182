"""Seconds of a training step alone and beside 1 and 2 busy processes, computed in three ways.

    python -m tests.benchmarks.cpu_neighbours --rounds 3 --json docs/benchmarks/cpu/neighbours.json \
        --markdown docs/benchmarks/cpu/README.md
    python -m tests.benchmarks.cpu_neighbours --rounds 5 --ways split dealt           # without the slowest

The training is the quickstart's (tiny base, 16 pages per step, all cores), stopped after ``--steps`` steps; a
figure is the median of its steps without the first. A neighbour is a process that computes without a pause. The ways:

- "spinning": all threads share each operation, and waiting threads spin (libgomp's default, GOMP_SPINCOUNT 300,000);
- "split": the same, but waiting threads sleep (OMP_WAIT_POLICY=PASSIVE, which the product sets);
- "dealt": the product, which deals the batch out to single threads (``components/train/loop/dealing.py``).

Rounds are interleaved: each one measures all cases, every second one in reverse order. The load of the machine before
each case is recorded: other work makes all figures larger.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.shared.artifacts.training_record import TrainingRecord

DEALT = "import runpy; runpy.run_module('components.train', run_name='__main__', alter_sys=True)"
SPLIT = "from components.train.loop import dealing; dealing.obstacle = lambda *_: 'measured without'; " + DEALT
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "spinning": (SPLIT, {"GOMP_SPINCOUNT": "300000"}),
    "split": (SPLIT, {}),
    "dealt": (DEALT, {}),
}
NEIGHBOURS = (0, 1, 2)
TRAINING = (
    *("--base_model", "tiny-base", "--finetune_vision_layers", "--per_device_train_batch_size", "16"),
    *("--learning_rate", "0.003", "--seed", "0"),
)
PREPARING = (
    "--max_train_pages",
    "320",
    "--max_eval_pages",
    "4",
    "--eval_fraction",
    "0.2",
    "--lines_per_page",
    "[1, 3]",
)
DRAWING = ("--fonts", '["DejaVuSansMono.ttf"]', "--font_sizes", "[16]", "--text_engine", "pillow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    cases = [(way, neighbours) for neighbours in NEIGHBOURS for way in arguments.ways]
    measurements: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="cpu-neighbours-") as folder:
        made = ("--output_dir", f"{folder}/dataset", *PREPARING, *DRAWING)
        program(("-m", "components.prepare", *made), {})
        for number in range(arguments.rounds):
            for way, neighbours in cases[:: 1 if number % 2 == 0 else -1]:
                load = os.getloadavg()[0]
                with busy(neighbours):
                    steps = trained(Path(folder), f"{number}-{way}-{neighbours}", arguments.steps, way)
                seconds = round(statistics.median(steps[1:]), 3)
                measurements.append(
                    {"round": number, "way": way, "neighbours": neighbours, "load_before": round(load, 2)}
                    | {"median_step_seconds": seconds, "step_seconds": [round(step, 3) for step in steps]}
                )
                written(measurements, arguments.json, arguments.markdown)
                print(f"{way}, {neighbours} neighbours: {seconds} s a step (load before: {load:.1f})", flush=True)
    print(table(measurements))


def written(measurements: list[dict[str, Any]], data: Path | None, markdown: Path | None) -> None:
    """Write the measurements so far, so that an interrupted run keeps them."""
    result = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "machine": machine(), "measurements": measurements}
    if data:
        data.write_text(json.dumps(result, indent=1) + "\n")
    if markdown:
        markdown.write_text(page(result, sys.argv[1:]))


def program(arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    """Run Python with ``arguments``, in an environment without settings for threads and tracking."""
    ours = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MLFLOW_", "KFP_", "DEEPSYNTH_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"MLFLOW_TRACKING_URI": "off"} | variables
    answer = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]


def trained(folder: Path, name: str, steps: int, way: str) -> list[float]:
    """Train and return the seconds of each step."""
    code, variables = WAYS[way]
    output = folder / name
    flags = ("--dataset_dir", f"{folder}/dataset", "--output_dir", str(output), "--max_steps", str(steps))
    program(("-c", code, *flags, *TRAINING), variables)
    record = TrainingRecord.read(output)
    assert record.batch and bool(record.batch.dealt_pages) == (way == "dealt"), record.batch
    return record.step_seconds


@contextmanager
def busy(number: int) -> Iterator[None]:
    """Run ``number`` busy processes within the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def machine() -> dict[str, Any]:
    """Return the properties of the machine that the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def table(measurements: list[dict[str, Any]]) -> str:
    """Return the medians over the rounds as a Markdown table, with their range and their ratio to the one alone."""
    ways = [way for way in WAYS if any(one["way"] == way for one in measurements)]
    lines = [
        f"| busy neighbours | {' | '.join(f'{way}: s a step' for way in ways)} |",
        "| --- |" + " --- |" * len(ways),
    ]
    for neighbours in NEIGHBOURS:
        cells = [_cell(found_of(measurements, way, neighbours), found_of(measurements, way, 0)) for way in ways]
        lines.append(f"| {neighbours} | {' | '.join(cells)} |")
    return "\n".join(lines)


def found_of(measurements: list[dict[str, Any]], way: str, neighbours: int) -> list[float]:
    """Return the seconds of a step in each round."""
    return [one["median_step_seconds"] for one in measurements if (one["way"], one["neighbours"]) == (way, neighbours)]


def _cell(found: list[float], alone: list[float]) -> str:
    if not found:
        return "not measured"
    spread = f" ({min(found):.2f} – {max(found):.2f})" if len(found) > 1 else ""
    ratio = f", {statistics.median(found) / statistics.median(alone):.2f} x" if alone else ""
    return f"{statistics.median(found):.2f}{spread}{ratio}"


def page(result: dict[str, Any], arguments: list[str]) -> str:
    """Return the content of docs/benchmarks/cpu/README.md."""
    known = result["machine"]
    loads = [one["load_before"] for one in result["measurements"]]
    return f"""# A training step beside busy neighbours

{table(result["measurements"])}

Medians of the rounds, with their range and their ratio to the step alone.

- spinning: all threads share each operation, and waiting threads spin (libgomp's default).
- split: waiting threads sleep: `OMP_WAIT_POLICY=PASSIVE`, which every program of this project sets unless
  `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT` or `KMP_BLOCKTIME` is set. Each operation is in equal parts, and the part that
  shares its core with a neighbour decides.
- dealt: the train step deals its batch out to single threads, a few pages at a time; a slowed thread takes fewer.
  `components/train/loop/dealing.py` says when it does.

{known["processor"]}, {known["cores"]} cores, Python {known["python"]}, {result["date"]} UTC. Load of the machine before
the measurements: {min(loads)} to {max(loads)} (0 is an idle machine; other work than the neighbours counts). Where
it is far above 0, other work ran beside all cases: compare the columns, not the rows.

    python -m tests.benchmarks.cpu_neighbours {" ".join(arguments)}
"""


if __name__ == "__main__":
    main()
