"""Trains each case in its own process and writes its figures; see README.md in this folder.

    python docs/benchmarks/training/measure.py OUT --model FOLDER --data FOLDER CASE [CASE ...]

`name=deepseek-4bit-unsloth,backend=unsloth,load_in_4bit=true` is a case: a name, then settings of the train step.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from components.benchmark.contenders.contender import steady_figures
from components.shared.artifacts.training_record import TrainingRecord

ATTENTION = [f"self_attn.{name}_proj" for name in "qkvo"]


def attention_of_the_language_model(model: Path) -> list[str]:
    """Return full module names, so that both backends adapt exactly the same modules."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    prefix = "model.language_model.layers"
    return [
        f"{prefix}.{layer}.{name}" for layer in range(config["text_config"]["num_hidden_layers"]) for name in ATTENTION
    ]


def settings_of(case: str, options: argparse.Namespace) -> dict:
    given = yaml.safe_load("\n".join(pair.replace("=", ": ", 1) for pair in case.split(",")))
    name = given.pop("name")
    model = Path(given.pop("base_model", options.model))
    return {
        "name": name,
        "dataset_dir": str(given.pop("dataset_dir", options.data)),
        "base_model": str(model),
        "output_dir": str(options.out / name / "adapter"),
        "target_modules": attention_of_the_language_model(model),
        "r": 16,
        "lora_alpha": 32,
        "per_device_train_batch_size": 4,
        "max_steps": options.steps,
        "dataloader_num_workers": 2,
        "seed": 0,
        **given,
    }


def measure(case: str, options: argparse.Namespace) -> dict:
    settings = settings_of(case, options)
    name = settings.pop("name")
    folder = options.out / name
    folder.mkdir(parents=True)
    (folder / "train.json").write_text(json.dumps(settings, indent=1))
    environment = os.environ | {"MLFLOW_TRACKING_URI": "off"}
    started = time.perf_counter()
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "components.train", "--config", str(folder / "train.json")]
        code = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False, timeout=options.limit
        ).returncode
    wall = time.perf_counter() - started
    if code:
        last = [line.strip() for line in (folder / "log").read_text(errors="replace").splitlines() if line.strip()][-3:]
        return {"name": name, "settings": settings, "failed": f"exit code {code}: {' | '.join(last)}"[-600:]}
    training = TrainingRecord.read(folder / "adapter")
    figures = steady_figures(settings["backend"], 1, training, options.warmup, wall)
    return {
        "name": name,
        "settings": settings,
        "wall_seconds": wall,
        "versions": training.versions,
        **figures.model_dump(),
    }


def line(result: dict) -> str:
    if failure := result.get("failed"):
        return f"{result['name']:28} {failure}"
    gib = 2**30
    peak, loading = result["peak_memory_bytes"], result["loading_peak_memory_bytes"]
    memory = (
        "-"
        if peak["allocated"] is None
        else (f"{peak['allocated'] / gib:6.2f} {peak['reserved'] / gib:6.2f} {loading['allocated'] / gib:6.2f}")
    )
    losses = " ".join(f"{loss:.4f}" for loss in result["losses"][:3] + result["losses"][-1:])
    return (
        f"{result['name']:28} {result['median_step_seconds']:7.3f} s  {memory} GiB  {result['compile_seconds']:6.1f} s"
        f"  {result['wall_seconds']:5.0f} s  {result['trainable_parameters']:>11,}  {losses}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=6)
    parser.add_argument("--at_once", type=int, default=1, help="above 1 to see what runs: times then mean nothing")
    parser.add_argument("--limit", type=int, default=400, help="seconds a case may take")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.at_once) as pool:
        results = list(pool.map(lambda case: _measured(case, options), options.cases))
    report = {"command": sys.argv[1:], "at_once": options.at_once, "warmup_steps": options.warmup, "cases": results}
    (options.out / "measured.json").write_text(json.dumps(report, indent=1))
    print("case | s/step | peak allocated, reserved, while loading | compile | wall | trained | losses 1 2 3 .. last")
    for result in results:
        print(line(result))


def _measured(case: str, options: argparse.Namespace) -> dict:
    try:
        result = measure(case, options)
    except subprocess.TimeoutExpired:
        result = {"name": case, "failed": f"took more than {options.limit} s"}
    print(line(result), flush=True)
    return result


if __name__ == "__main__":
    main()
