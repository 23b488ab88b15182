"""Shared by the tests of trainings on a GPU: a tiny base and a dataset, and steps in separate processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2

SETTINGS: dict[str, Any] = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3}


def base_and_dataset(folder: Path, save_base: Callable[[Path], None] = save_tiny_deepseek_ocr2) -> Path:
    """Make ``base``, a tiny DeepSeek-OCR-2 or what ``save_base`` writes, and ``dataset``; return ``folder``.

    On a machine without fonts or the prepare step's packages, set DEEPSYNTH_TEST_DATASET to a finished dataset.
    """
    save_base(folder / "base")
    if given := os.environ.get("DEEPSYNTH_TEST_DATASET"):
        (folder / "dataset").symlink_to(given)
    else:
        from components.prepare.config import PrepareConfig
        from components.prepare.step import run as prepare

        prepare(PrepareConfig(output_dir=folder / "dataset", max_documents=6, max_train_pages=24, workers=1))
    return folder


def settings_of(made: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return the train step's settings as JSON values."""
    places = {"dataset_dir": str(made / "dataset"), "base_model": str(made / "base"), "output_dir": str(output)}
    return {**places, **SETTINGS, **changes}


def log_of(step: str, settings: dict[str, Any]) -> Path:
    """Return the file for the step's output."""
    return Path(f"{settings['output_dir']}.{step}.log")


def started(step: str, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start a step in a separate process, as the benchmark does: Unsloth patches the libraries of its process."""
    log = log_of(step, settings)
    file = log.with_suffix(".json")
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", f"components.{step}", "--config", str(file)]
    with log.open("wb") as stream:
        environment = os.environ | {"MLFLOW_TRACKING_URI": "off"}
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)


def finished(step: str, settings: dict[str, Any]) -> None:
    """Run a step and wait for its end."""
    code = started(step, settings).wait()
    assert code == 0, log_of(step, settings).read_text(errors="replace")[-3000:]


def trained(made: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Train and return the content of ``training.json``."""
    finished("train", settings_of(made, output, **changes))
    content: dict[str, Any] = json.loads((output / "training.json").read_text())
    return content


def trained_side_by_side(made: Path, folder: Path, *changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Train with each of ``changes`` in parallel: a small training spends most of its time on the host."""
    folder.mkdir(exist_ok=True)
    outputs = [folder / f"training-{number}" for number in range(len(changes))]
    with ThreadPoolExecutor(len(changes)) as pool:
        return list(pool.map(lambda output, each: trained(made, output, **each), outputs, changes))
