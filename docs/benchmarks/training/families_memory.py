"""Estimates the GPU memory of a 4-bit training at batch 4 for full-size families; needs neither weights nor a GPU.

    PYTHONPATH=. python docs/benchmarks/training/families_memory.py docs/benchmarks/models-memory.json [FAMILY ...]

Pages of 640 x 640 pixels in rows of 1,280 tokens, or of what the picture, the prompt and 750 tokens of text take. The
sizes are those of a published checkpoint of each family (published_sizes.py); families named keep the others' entries.
Most need torchvision (`make torchvision`). Peaks of runs 29 and 30 stand beside estimates for the rows that had them.
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
from published_sizes import PUBLISHED, save_published  # noqa: E402

from components.benchmark.contenders import full_size_model  # noqa: E402
from components.train.config import TrainConfig  # noqa: E402
from components.train.estimate.memory_estimate import Pages, estimate_memory  # noqa: E402
from tests.fixtures.family_matrix import makers  # noqa: E402

PAGE = Pages(640, 640, 1280)
_TEXT_TOKENS = 750
SETTINGS = {"load_in_4bit": True, "per_device_train_batch_size": 4, "gradient_checkpointing": True, "max_length": 8192}
_CHECKPOINTS = {
    "deepseek_ocr2": "deepseek-community/DeepSeek-OCR-2",
    "paddleocr_vl": "PaddlePaddle/PaddleOCR-VL",
    "qwen2_5_vl": "Qwen/Qwen2.5-VL-3B-Instruct",
}
# The longest text of page640 has 906 tokens, the median 630. On a GPU a batch is padded to the next multiple of 64
# tokens above its longest row (padding_granule), so these rows had the peaks of the trainings in runs 29 and 30.
_LONGEST_ROWS = {"qwen2_5_vl": 1536, "paddleocr_vl": 1472}
_RUNS = [Path(__file__).with_name(f"run-{number}-families.json") for number in (29, 30)]


def measured(name: str, config: TrainConfig) -> dict[str, Any]:
    """Return the measured peaks of a family's trainings beside estimates for the rows that had them; in bytes."""
    page = Pages(PAGE.width, PAGE.height, _LONGEST_ROWS[name])
    found: dict[str, Any] = {"tokens": page.tokens}
    for run in _RUNS:
        families = json.loads(run.read_text(encoding="utf-8"))["families"]
        for training in families.get(name, {}).get("trainings", []):
            if training.get("status") == "ok":
                backend = training["contender"]
                peak = training["peak_memory_bytes"]["allocated"]
                found[backend] = {"measured": peak, "estimate": estimate_memory(config, page, backend).peak_bytes}
    return found


def estimates(name: str, folder: Path) -> dict[str, Any]:
    """Return both backends' estimates of one family, or why there is none."""
    if name == "deepseek_ocr2":
        full_size_model.save_without_weights(folder)
    elif name in PUBLISHED:
        save_published(name, makers(with_torchvision=True)[name], folder)
    else:
        save_without_weights(name, folder)
    checkpoint = PUBLISHED[name].checkpoint if name in PUBLISHED else _CHECKPOINTS[name]
    places = {"dataset_dir": folder, "output_dir": folder / "out", "base_model": str(folder)}
    config = TrainConfig.model_validate({**places, **SETTINGS})
    found: dict[str, Any] = {"checkpoint": checkpoint}
    try:
        needed = estimate_memory(config, Pages(PAGE.width, PAGE.height, 8192), "unsloth").page_tokens
        page = Pages(PAGE.width, PAGE.height, max(PAGE.tokens, needed + _TEXT_TOKENS))
        found["tokens"] = page.tokens
        for backend in ("standard", "unsloth"):
            each = asdict(estimate_memory(config, page, backend))
            found[backend] = {key: each[key] for key in ("parameters", "peak_bytes", "parts")}
        if name in _LONGEST_ROWS:
            found["measured"] = measured(name, config)
    except Exception as error:  # the other families go on
        found["failed"] = f"{type(error).__name__}: {error}".replace(str(folder), name)[:200]
    return found


def main(target: Path, names: list[str]) -> None:
    every = [*_CHECKPOINTS, *PUBLISHED]
    before = json.loads(target.read_text(encoding="utf-8"))["families"] if names else {}
    content: dict[str, Any] = {"page": asdict(PAGE), "settings": SETTINGS, "families": before}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names or every:
            found = content["families"][name] = estimates(name, Path(scratch) / name)
            gib = {key: round(found[key]["peak_bytes"] / 2**30, 2) for key in ("standard", "unsloth") if key in found}
            parameters = f"{found.get('standard', {}).get('parameters', 0) / 1e9:.3f}"
            print(
                name, parameters, found.get("tokens"), gib, found.get("failed", found.get("measured", "")), flush=True
            )
            target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
