"""Compares what an adapter and its merged weights read in bfloat16, token by token, on several random pages.

    PYTHONPATH=. python docs/benchmarks/training/merge_ties.py OUT --families qwen3_vl --seeds 4

A tiny random model of each family is trained for six steps; adapter and merged weights then read eight pages of random
pixels for each seed. Where the two readings part, the adapter's scores of the two tokens are compared: the unit is the
distance of neighbouring bfloat16 numbers (ulp) at the higher score. The last column says whether the export step calls
it a tie (components/export/package/merge_ties.py). OUT/merge-ties.json gets every figure.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fixtures.torchvision_without_operators import obstacle_to_torchvision, use_torchvision

_PAGES, _TOKENS = 8, 48


def readings(model: Any, base: Path, adapter: Path, pages: list[Any], tokens: int) -> list[Any]:
    """Return each page's answer with the scores that it was chosen by."""
    from components.shared.models.adapter_loading import load_fine_tuned_processor
    from components.shared.models.model_families import family_of
    from components.shared.reading.transcriber import Transcriber

    processor = load_fine_tuned_processor(str(base), adapter)
    reader = Transcriber(model, processor, family_of(model.config.model_type), tokens, graphed=False)
    return [reader.read_step_by_step(page) for page in pages]


@dataclass(frozen=True)
class RandomPage:
    """A picture of random pixels."""

    image: Image.Image
    instruction: str | None = None


def random_pages(seed: int) -> list[RandomPage]:
    """Return pages of 224 x 112 pixels."""
    drawn = np.random.default_rng(seed).integers(0, 256, (_PAGES, 112, 224, 3), dtype=np.uint8)
    return [RandomPage(Image.fromarray(pixels)) for pixels in drawn]


def compared(base: Path, adapter: Path, pages: list[Any]) -> dict[str, Any]:
    """Return where the readings of adapter and merged weights part, in bfloat16."""
    import torch

    from components.export.package.merge_ties import ties_of
    from components.shared.models.adapter_loading import load_fine_tuned
    from components.shared.models.model_loading import default_device, load_model

    place: dict[str, Any] = {"dtype": torch.bfloat16, "device": default_device()}
    adapted: Any = load_fine_tuned(str(base), adapter, **place)
    by_adapter = readings(adapted, base, adapter, pages, _TOKENS)
    by_merged = readings(adapted.merge_and_unload().eval(), base, adapter, pages, _TOKENS)
    by_base = readings(load_model(str(base), **place).eval(), base, adapter, pages, 1)
    keys = [str(number) for number in range(len(pages))]
    ties = ties_of(keys, by_adapter, by_merged, by_base)
    partings = []
    for key, ours, theirs in zip(keys, by_adapter, by_merged, strict=True):
        pairs = enumerate(zip(ours.tokens, theirs.tokens, strict=False))
        where = next((at for at, (one, other) in pairs if one != other), None)
        if where is not None:
            scores = ours.best[where]
            best = scores[ours.tokens[where]]
            margin = best - scores.get(theirs.tokens[where], -math.inf)
            ulp = 2.0 ** (math.floor(math.log2(max(abs(best), 1e-30))) - 7)
            partings.append({"page": key, "token": where, "margin": margin, "ulp": ulp, "tie": key in ties})
    noise = next(iter(ties.values())).noise if ties else None
    return {
        "pages": len(pages),
        "tokens": sum(len(each.tokens) for each in by_adapter),
        "noise": noise,
        "parts": partings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="a dataset; without it the prepare step draws short pages")
    parser.add_argument("--families", nargs="+", default=["qwen3_vl"])
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    if obstacle_to_torchvision() is None:
        use_torchvision()
    from components.train.config import TrainConfig
    from components.train.step import run
    from tests.fixtures.family_matrix import dataset_for_all, makers
    from tests.fixtures.training_fixture import one_thread_and_no_tracking

    options.out.mkdir(parents=True, exist_ok=True)
    every = makers(with_torchvision=obstacle_to_torchvision() is None)
    report: dict[str, Any] = {"command": sys.argv[1:], "readings": []}
    print("family | seed | pages | tokens | pages that part | margin in ulp, tie", flush=True)
    with one_thread_and_no_tracking():
        data = options.data or dataset_for_all(options.out) / "dataset"
        for name in options.families:
            base, adapter = options.out / name, options.out / f"{name}-adapter"
            every[name](base)
            settings = {
                **{"dataset_dir": data, "base_model": str(base), "output_dir": adapter, "backend": "standard"},
                **{"max_steps": 6, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "max_length": 8192},
            }
            run(TrainConfig.model_validate(settings))
            for seed in range(options.seeds):
                report["readings"].append({"family": name, "seed": seed, **compared(base, adapter, random_pages(seed))})
                (options.out / "merge-ties.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                _print(report["readings"][-1])


def _print(row: dict[str, Any]) -> None:
    shown = [f"{each['margin'] / each['ulp']:.1f} {'tie' if each['tie'] else 'NO TIE'}" for each in row["parts"]]
    print(row["family"], row["seed"], row["pages"], row["tokens"], len(shown), ", ".join(shown), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
