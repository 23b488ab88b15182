"""Estimates the GPU memory of a 4-bit training at batch 4 for full-size families; needs neither weights nor a GPU.

    PYTHONPATH=. python docs/benchmarks/training/families_memory.py docs/benchmarks/models-memory.json

Pages of 640 x 640 pixels in rows of 1,280 tokens. Qwen2.5-VL needs torchvision (`make torchvision`).
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fixtures.torchvision_without_operators import use_torchvision

use_torchvision()

from full_size_families import save_without_weights  # noqa: E402

from components.benchmark.contenders import full_size_model  # noqa: E402
from components.train.config import TrainConfig  # noqa: E402
from components.train.estimate.memory_estimate import Pages, estimate_memory  # noqa: E402

PAGE = Pages(640, 640, 1280)
SETTINGS = {"load_in_4bit": True, "per_device_train_batch_size": 4, "gradient_checkpointing": True, "max_length": 4096}


def estimates(name: str, folder: Path) -> dict[str, Any]:
    """Return both backends' estimates of one family."""
    if name == "deepseek_ocr2":
        full_size_model.save_without_weights(folder)
    else:
        save_without_weights(name, folder)
    places = {"dataset_dir": folder, "output_dir": folder / "out", "base_model": str(folder)}
    config = TrainConfig.model_validate({**places, **SETTINGS})
    found = {backend: asdict(estimate_memory(config, PAGE, backend)) for backend in ("standard", "unsloth")}
    return {
        backend: {key: each[key] for key in ("parameters", "peak_bytes", "parts")} for backend, each in found.items()
    }


def main(target: str) -> None:
    content: dict[str, Any] = {"page": asdict(PAGE), "settings": SETTINGS, "families": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("deepseek_ocr2", "paddleocr_vl", "qwen2_5_vl"):
            content["families"][name] = estimates(name, Path(scratch) / name)
            print(name, {key: round(each["peak_bytes"] / 2**30, 2) for key, each in content["families"][name].items()})
    Path(target).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
