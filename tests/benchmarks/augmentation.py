"""Measures the cost of each augmentation effect per page: milliseconds on one core, and kB as PNG and as WebP.

    python -m tests.benchmarks.augmentation --pages 48 --rounds 5 --json docs/benchmarks/dataset/augmentation.json

The pages are those of ``tests.benchmarks.reading``, 1024x1024; the ranges are those of ``docs/dataset.md``, with every
page augmented, and skew in addition. Rounds are interleaved; milliseconds are medians of processor time over all pages
and rounds, sizes are means over the pages.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.reading import drawn_page, machine, use_one_core

EFFECTS: dict[str, tuple[float, float]] = {
    "rotation_degrees": (-1.5, 1.5),
    "blur_sigma": (0, 0.8),
    "noise_std": (0, 6),
    "jpeg_quality": (60, 95),
    "ink_bleed": (0, 0.4),
    "shadow": (0, 0.3),
    "paper_texture": (0, 6),
}
SKEW = (-1.5, 1.5)
PAPER = 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    use_one_core()
    rows = measured([drawn_page(number)[0] for number in range(arguments.pages)], arguments.rounds)
    print(f"{'':20}{'ms a page':>12}{'kB as PNG':>12}{'kB as WebP':>12}")
    for name, row in rows.items():
        sizes = (row["png_bytes_a_page"] / 1000, row["webp_bytes_a_page"] / 1000)
        print(f"{name:20}{row['milliseconds_a_page']:12.2f}" + "".join(f"{size:12.1f}" for size in sizes))
    if arguments.json:
        result = {
            "command": " ".join(["python", "-m", "tests.benchmarks.augmentation", *sys.argv[1:]]),
            "machine": machine(),
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measured(pages: list[np.ndarray], rounds: int) -> dict[str, dict[str, Any]]:
    """Return ranges, time and sizes for no effect, for each effect alone and for all of ``EFFECTS`` together."""
    from components.prepare.output.png import encode_image
    from components.prepare.rendering.augmentation import augment
    from components.prepare.settings.augmentation_settings import AugmentationSettings

    alone = EFFECTS | {"skew_degrees": SKEW}
    chosen: dict[str, dict[str, Any]] = {"none": {}} | {name: {name: span} for name, span in alone.items()}
    chosen["all but skew"] = dict(EFFECTS)
    settings = {name: AugmentationSettings.model_validate(effects) for name, effects in chosen.items()}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, effects in settings.items():
            for seed, page in enumerate(pages):
                start = time.thread_time()  # thread time excludes the time of other programs
                augment(page, effects, seed, PAPER)
                seconds[name].append(time.thread_time() - start)
    rows: dict[str, dict[str, Any]] = {}
    for name, effects in settings.items():
        augmented = [augment(page, effects, seed, PAPER).page for seed, page in enumerate(pages)]
        rows[name] = {
            "effects": chosen[name],
            "milliseconds_a_page": round(statistics.median(seconds[name]) * 1e3, 3),
            "png_bytes_a_page": statistics.mean(len(encode_image(page, "png")) for page in augmented),
            "webp_bytes_a_page": statistics.mean(len(encode_image(page, "webp")) for page in augmented),
        }
    return rows


if __name__ == "__main__":
    main()
