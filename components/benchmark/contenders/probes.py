"""Probes of a contender's model besides the timed training: reading pages, generation, the limits of capped memory."""

import json
import math
from pathlib import Path
from typing import Any

from components.benchmark.config import BenchmarkConfig
from components.benchmark.contenders.module_process import run_module, seconds_until
from components.shared.artifacts.benchmark_report import ProbeResult
from components.shared.scoring.edit_counts import character_edits, error_rate
from components.shared.scoring.text_normalization import Profile, normalizer

PROBES = ("reading", "generation", "largest_batch", "longest_context")
NORMALIZATION: Profile = "nfkc-ws-v1"
"""How label and prediction are normalised before they are compared; evaluate's default."""


def probe(
    config: BenchmarkConfig, train: dict[str, Any], scratch: Path, log: Path, deadline: float = math.inf
) -> dict[str, Any]:
    """Probe the model trained with the settings ``train`` in a separate process; return fields of ``Measurement``.

    If the process dies, its current part and all later ones fail, with the end of its log as the reason.
    """
    if not (config.cer_pages or config.generation_tokens or config.memory_cap_gib):
        return {}
    result_file = scratch / "probes.json"
    settings = {"train": train, "result_file": str(result_file), **config.probe_settings()}
    failure = run_module(
        "components.train.probes.probe", settings, scratch / "probe.json", log, seconds_until(deadline)
    )
    measured = json.loads(result_file.read_text(encoding="utf-8")) if result_file.exists() else {}
    return probe_figures({name: measured.get(name, {"status": "failed", "reason": failure}) for name in PROBES})


def probe_figures(probes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of ``Measurement`` from the raw results; fields of a part that is not ``ok`` stay None."""
    figures: dict[str, Any] = {"probes": {name: ProbeResult(**result) for name, result in probes.items()}}
    if (reading := probes["reading"])["status"] == "ok":
        figures["cer"] = character_error_rate(reading["labels"], reading["texts"])
    if (generation := probes["generation"])["status"] == "ok":
        figures["generated_tokens_per_second"] = generation["tokens_per_second"]
        figures["generated_pages_per_second"] = generation["pages_per_second"]
        figures["graphed_tokens_per_second"] = generation.get("graphed_tokens_per_second")
        figures["graphed_pages_per_second"] = generation.get("graphed_pages_per_second")
        figures["first_token_seconds"] = generation["first_token_seconds"]
    if (batch := probes["largest_batch"])["status"] == "ok":
        figures["largest_batch"] = batch["pages"]
        figures["largest_batch_samples_per_second"] = batch.get("samples_per_second")
    if (context := probes["longest_context"])["status"] == "ok":
        figures["longest_context"] = context["tokens"]
    return figures


def character_error_rate(labels: list[str], texts: list[str]) -> float | None:
    """Return the pages' edits divided by their labels' characters, both normalised; None if the labels are empty.

    >>> character_error_rate(["kitten", "a  b"], ["sitting", "a b"])
    0.3333333333333333
    """
    normalize = normalizer(NORMALIZATION)
    pages = [character_edits(normalize(label), normalize(text)) for label, text in zip(labels, texts, strict=True)]
    return error_rate(pages) if any(page.reference_length for page in pages) else None
