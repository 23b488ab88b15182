"""Seconds of a training step alone and beside 1 and 2 busy processes, with OpenMP's default and passive wait policies.

    python -m tests.benchmarks.cpu_neighbours --rounds 3 --json docs/benchmarks/cpu/neighbours.json \
        --markdown docs/benchmarks/cpu/README.md

The training is the quickstart's (tiny base, 16 pages per step, all cores), stopped after ``--steps`` steps; a
figure is the median of its steps without the first. A neighbour is a process that computes without a pause. "before"
sets GOMP_SPINCOUNT to libgomp's default of 300,000; "after" sets nothing, so that the product sets
OMP_WAIT_POLICY=PASSIVE. Rounds are interleaved: each one measures all six cases, every second one in reverse order.
The load of the machine before each case is recorded: other work makes all figures larger.
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

POLICIES = {"before": {"GOMP_SPINCOUNT": "300000"}, "after": {}}
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
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    cases = [(policy, neighbours) for neighbours in NEIGHBOURS for policy in POLICIES]
    measurements: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="cpu-neighbours-") as folder:
        program("prepare", ("--output_dir", f"{folder}/dataset", *PREPARING, *DRAWING), {})
        for number in range(arguments.rounds):
            for policy, neighbours in cases[:: 1 if number % 2 == 0 else -1]:
                load = os.getloadavg()[0]
                with busy(neighbours):
                    steps = trained(Path(folder), f"{number}-{policy}-{neighbours}", arguments.steps, POLICIES[policy])
                seconds = round(statistics.median(steps[1:]), 3)
                measurements.append(
                    {"round": number, "policy": policy, "neighbours": neighbours, "load_before": round(load, 2)}
                    | {"median_step_seconds": seconds, "step_seconds": [round(step, 3) for step in steps]}
                )
                written(measurements, arguments.json, arguments.markdown)
                print(f"{policy}, {neighbours} neighbours: {seconds} s a step (load before: {load:.1f})", flush=True)
    print(table(measurements))


def written(measurements: list[dict[str, Any]], data: Path | None, markdown: Path | None) -> None:
    """Write the measurements so far, so that an interrupted run keeps them."""
    result = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "machine": machine(), "measurements": measurements}
    if data:
        data.write_text(json.dumps(result, indent=1) + "\n")
    if markdown:
        markdown.write_text(page(result, sys.argv[1:]))


def program(step: str, flags: tuple[str, ...], variables: dict[str, str]) -> None:
    """Run a step in an environment without settings for threads and tracking."""
    ours = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MLFLOW_", "KFP_", "DEEPSYNTH_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"MLFLOW_TRACKING_URI": "off"} | variables
    command = [sys.executable, "-m", f"components.{step}", *flags]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]


def trained(folder: Path, name: str, steps: int, variables: dict[str, str]) -> list[float]:
    """Train and return the seconds of each step."""
    output = folder / name
    flags = ("--dataset_dir", f"{folder}/dataset", "--output_dir", str(output), "--max_steps", str(steps))
    program("train", (*flags, *TRAINING), variables)
    return TrainingRecord.read(output).step_seconds


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
    """Return the medians over the rounds as a Markdown table, with the range if there are several rounds."""
    lines = ["| busy neighbours | before: s a step | after: s a step |", "| --- | --- | --- |"]
    for neighbours in NEIGHBOURS:
        cells = []
        for policy in POLICIES:
            found = [
                one["median_step_seconds"]
                for one in measurements
                if (one["policy"], one["neighbours"]) == (policy, neighbours)
            ]
            if not found:
                cells.append("not measured")
                continue
            spread = f" ({min(found):.2f} – {max(found):.2f})" if len(found) > 1 else ""
            cells.append(f"{statistics.median(found):.2f}{spread}")
        lines.append(f"| {neighbours} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(result: dict[str, Any], arguments: list[str]) -> str:
    """Return the content of docs/benchmarks/cpu/README.md."""
    known = result["machine"]
    loads = [one["load_before"] for one in result["measurements"]]
    return f"""# A training step beside busy neighbours

{table(result["measurements"])}

Medians of the rounds, with their range. Before: OpenMP's waiting threads spin. After: `OMP_WAIT_POLICY=PASSIVE`, which
every program of this project sets unless `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT` or `KMP_BLOCKTIME` is set.

{known["processor"]}, {known["cores"]} cores, Python {known["python"]}, {result["date"]} UTC. Load of the machine before
the measurements: {min(loads)} to {max(loads)} (0 is an idle machine; other work than the neighbours counts). Where
it is far above 0, other work ran beside all six cases: compare the two columns, not the rows.

    python -m tests.benchmarks.cpu_neighbours {" ".join(arguments)}
"""


if __name__ == "__main__":
    main()
