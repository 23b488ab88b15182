"""Measures a backend's model outside training: transcription, generation speed, and memory capacity.

    python -m components.train.probes.probe --config probe.json

The benchmark step runs one process per contender. A part that cannot run gives a result with the reason. The result
file is rewritten after each part, so that a killed process leaves the finished measurements.
"""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.shared.artifacts.output_folder import scratch_folder
from components.shared.errors import UserError
from components.shared.programs.machine_failures import ran_out_of_device_memory
from components.shared.programs.probe_settings import ProbeSettings
from components.shared.programs.step_command import step_main
from components.train.backends.choice import choose_backend
from components.train.config import TrainConfig

log = logging.getLogger(__name__)


class ProbeConfig(ProbeSettings):
    """Measure one training backend's model outside a training run."""

    train: dict[str, Any]
    """the train step's settings; output_dir is the adapter that the contender trained"""
    result_file: Path
    """the JSON file to write"""


def run(config: ProbeConfig) -> dict[str, Any]:
    """Measure each part, write ``config.result_file`` and return its content: part -> figures, with a ``status``.

    Raises:
        UserError: the dataset, the model or a setting is not usable on this machine.
    """
    settings = TrainConfig.model_validate(config.train)
    backend, _ = choose_backend(settings)  # before any other import: Unsloth patches transformers
    from components.shared.datasets.shard_reader import ShardDataset
    from components.train.probes.capacity import cap_device_memory, largest_batch, longest_context
    from components.train.probes.generation_speed import (
        generation_speed,
        inference_mode_of,
        put_adapter,
        transcriptions,
    )

    obstacle = cap_device_memory(config.memory_cap_gib)
    trainable = backend.load(settings)
    results: dict[str, Any] = {}

    def measure(name: str, obstacle: str | None, part: Callable[[], dict[str, Any]]) -> None:
        results[name] = _result(name, obstacle, part)
        _write(config.result_file, results)

    def read_pages() -> dict[str, Any]:
        put_adapter(trainable, settings.output_dir)
        pages = ShardDataset(settings.dataset_dir, "eval")
        chosen = [pages[index] for index in range(min(config.cer_pages, len(pages)))]
        return transcriptions(trainable, chosen, config.generation_batch_size, config.max_new_tokens)

    def generate() -> dict[str, Any]:
        pages = ShardDataset(settings.dataset_dir, "train", verify=False)
        chosen = [pages[index % len(pages)] for index in range(config.generation_batch_size)]
        return generation_speed(trainable, chosen, config.generation_tokens, config.generation_repeats)

    with inference_mode_of(trainable, backend.name):
        measure("reading", "cer_pages is 0" if not config.cer_pages else None, read_pages)
        measure("generation", "generation_tokens is 0" if not config.generation_tokens else None, generate)
    with scratch_folder("deepsynth-probe") as scratch:
        page = _longest_page(ShardDataset(settings.dataset_dir, "train", verify=False)) if not obstacle else None
        search: dict[str, Any] = {"trainable": trainable, "config": settings, "page": page, "scratch": scratch}
        batches, tokens = config.largest_batch_limit, config.longest_context_limit
        measure("largest_batch", obstacle, lambda: largest_batch(**search, limit=batches))
        measure("longest_context", obstacle, lambda: longest_context(**search, limit=tokens))
    return results


def _longest_page(pages: Any) -> Any:
    """Return the page with the longest label among about 512 of the split: what fits with it fits with most pages."""
    spread = range(0, len(pages), max(1, len(pages) // 512))
    return max((pages[index] for index in spread), key=lambda page: len(page.text.encode()))


def _result(name: str, obstacle: str | None, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    import torch

    if obstacle:
        return {"status": "skipped", "reason": obstacle}
    try:
        return {"status": "ok", **part()}
    except UserError as error:
        return {"status": "failed", "reason": str(error)}
    except Exception as error:  # a contender's failure is its result; the other parts are still measured
        if isinstance(error, torch.AcceleratorError) and not ran_out_of_device_memory(error):
            raise  # the device's context is broken, so every later part would fail too
        log.exception("%s failed", name)
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}


def _write(path: Path, results: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(step_main("train.probe", ProbeConfig, run, sys.argv[1:]))
