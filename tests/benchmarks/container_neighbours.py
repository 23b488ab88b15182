"""A training in a container with a CPU quota, alone and beside a second one: seconds and CPU seconds of a step.

    python -m tests.benchmarks.container_neighbours --json docs/benchmarks/cpu/containers.json \
        --markdown docs/benchmarks/cpu/containers.md           # DEEPSYNTH_TEST_TAG=TAG: images that are built already

Both containers have the quota ``CPUS``. Together they want more than a machine of two cores has, so each gets its share
of the cores. The elapsed time of a step then grows by quota / share; its CPU time must not grow, as it would if threads
spun while they wait for others that have no core.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.cpu_neighbours import DRAWING, PREPARING, TRAINING, machine
from tests.docker.conftest import Images
from tests.docker.engine import docker_engine
from tests.docker.pods import Pod, make_volume

CPUS = 1.5
# Prints the CPU seconds of a training and of its children; the rest of the output is the training's own.
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "components.train", *sys.argv[1:]]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("CPU", used.ru_utime + used.ru_stime, flush=True)
sys.exit(code)
"""


@dataclass(frozen=True)
class Training:
    """Seconds and CPU seconds: the median step, and the whole container with its start."""

    step_seconds: float
    cpu_seconds: float


def prepared(pod: Pod) -> None:
    """Draw the pages of the quickstart's training into the pod's volume."""
    code, said = pod.step("prepare", "--output_dir", "/volume/dataset", *PREPARING, *DRAWING)
    assert code == 0, said[-2000:]


def trained(pod: Pod, name: str, steps: int) -> Training:
    """Train ``steps`` steps in a container with the quota ``CPUS``."""
    flags = (
        "--dataset_dir",
        "/volume/dataset",
        "--output_dir",
        f"/volume/{name}",
        "--max_steps",
        str(steps),
        *TRAINING,
    )
    code, said = pod.answer("python3", "-c", MEASURED, *flags, cpus=CPUS)
    assert code == 0, said[-2000:]
    report = json.loads((pod.volume / name / "training.json").read_text())
    (used,) = [float(line.split()[1]) for line in said.splitlines() if line.startswith("CPU ")]
    return Training(statistics.median(report["step_seconds"][1:]), used)


def beside(pod: Pod, names: tuple[str, str], steps: int) -> list[Training]:
    """Start two trainings together; return both."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda name: trained(pod, name, steps), names))


def compared(pod: Pod, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Return the measurements of each round: one training alone, then two together."""
    found = []
    for number in range(rounds):
        load = round(os.getloadavg()[0], 2)
        alone = trained(pod, f"alone-{number}", steps)
        both = beside(pod, (f"first-{number}", f"second-{number}"), steps)
        for case, one in (("alone", alone), *(("beside", one) for one in both)):
            found.append({"round": number, "case": case, "load_before": load, **vars(one)})
            print(found[-1], flush=True)
    return found


def middle(measurements: list[dict[str, Any]], case: str, key: str) -> float:
    """Return the median over the rounds."""
    return statistics.median(one[key] for one in measurements if one["case"] == case)


def page(measurements: list[dict[str, Any]], steps: int) -> str:
    """Return the content of docs/benchmarks/cpu/containers.md."""
    known = machine()
    rows = []
    for case, words in (("alone", "alone"), ("beside", "beside a second one")):
        seconds, used = middle(measurements, case, "step_seconds"), middle(measurements, case, "cpu_seconds")
        rows.append(f"| {words} | {seconds:.2f} | {used:.1f} |")
    ratio = {key: middle(measurements, "beside", key) / middle(measurements, "alone", key) for key in _KEYS}
    share = min(CPUS, known["cores"] / 2)
    loads = [one["load_before"] for one in measurements]
    return f"""# Two trainings in containers, each with --cpus {CPUS}

| training | s a step | CPU s of {steps} steps and the start |
| --- | --- | --- |
{chr(10).join(rows)}
| ratio | {ratio["step_seconds"]:.2f} | {ratio["cpu_seconds"]:.2f} |

Medians. Together the two want {2 * CPUS:g} cores of {known["cores"]}, so each gets {share:g} instead of {CPUS:g}: the
neighbour's share alone makes a step {CPUS / share:.2f} times as long. The CPU time is what the threads used, whoever
else ran: `tests/docker/test_cpu_quota.py` compares that, and no elapsed time.

{known["processor"]}, {known["cores"]} cores, Docker, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Load of the machine before
the rounds: {min(loads)} to {max(loads)} (other work ran if it is above 0).

    python -m tests.benchmarks.container_neighbours {" ".join(sys.argv[1:])}
"""


_KEYS = ("step_seconds", "cpu_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--markdown", type=Path, required=True)
    arguments = parser.parse_args()
    tag = os.environ["DEEPSYNTH_TEST_TAG"]
    images = Images(f"deepsynth-pipelines-python:{tag}", f"deepsynth-mlflow:{tag}")
    with docker_engine() as engine, tempfile.TemporaryDirectory(prefix="deepsynth-neighbours-") as folder:
        Path(folder).chmod(0o755)
        pod = Pod(engine, images.step, make_volume(Path(folder) / "volume"))
        prepared(pod)
        found = compared(pod, arguments.rounds, arguments.steps)
    arguments.json.write_text(json.dumps({"cpus": CPUS, "machine": machine(), "measurements": found}, indent=1) + "\n")
    arguments.markdown.write_text(page(found, arguments.steps))


if __name__ == "__main__":
    main()
