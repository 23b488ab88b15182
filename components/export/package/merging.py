"""The adapter merged into the base's weights, and the check that the result reads the same text."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from components.export.config import ExportConfig
from components.export.package.held_out_pages import CheckedPages
from components.export.package.inputs import PackageSources, evaluated_family, evaluated_rule
from components.export.package.merge_ties import MergeTie, ties_of
from components.export.package.verification import PackageVerificationError, fine_tuned_transcriber
from components.shared.digests import sha256_folder
from components.shared.models.adapter_loading import load_fine_tuned, load_fine_tuned_processor
from components.shared.models.model_loading import (
    default_device,
    default_dtype,
    load_model,
    load_processor,
    release_memory,
)
from components.shared.reading.transcriber import StepByStep, Transcriber
from components.shared.scoring.text_normalization import normalizer

log = logging.getLogger(__name__)

MERGED_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class MergeCheck:
    """The pages that the merged weights read exactly like the adapter, and the digest of the merged folder.

    ``ties`` are pages that they read differently from a token on that rounding decided (``merge_ties.py``).
    """

    pages: list[str]
    ties: list[MergeTie]
    normalization: str
    dtype: str
    sha256: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def write_merged(config: ExportConfig, sources: PackageSources, checked: CheckedPages, folder: Path) -> MergeCheck:
    """Write the merged model with its processor to ``folder`` and compare its readings with the adapter's.

    Raises:
        PackageVerificationError: a page reads differently, and not because rounding decided a tie.
    """
    by_adapter, by_base = _by_adapter_and_base(config, sources, checked)
    release_memory()
    _merge(config, sources, folder)
    release_memory()
    by_merged = _readings(_merged_transcriber(config, sources, folder), checked)
    release_memory()
    normalise = normalizer(sources.report.normalization)
    keys = [page.key for page in checked.pages]
    differing = {
        key
        for key, one, other in zip(keys, by_adapter, by_merged, strict=True)
        if normalise(one.text) != normalise(other.text)
    }
    ties = ties_of(keys, by_adapter, by_merged, by_base) if differing else {}
    if unexplained := [key for key in keys if key in differing and key not in ties]:
        raise PackageVerificationError(
            f"the merged weights read {len(differing)} of {len(keys)} pages differently from the adapter, and"
            f" rounding does not explain {len(unexplained)} (first {unexplained[0]}); leave merge off, use the adapter"
        )
    for tie in ties.values():
        log.warning(
            "page %s: the merged weights chose another token at place %d, where the adapter's scores differ by %.2g;"
            " rounding moves them by up to %.2g", tie.page, tie.token, tie.margin, tie.noise,
        )  # fmt: skip
    return MergeCheck(
        pages=[key for key in keys if key not in differing],
        ties=[tie for key, tie in ties.items() if key in differing],
        normalization=sources.report.normalization,
        dtype=str(MERGED_DTYPE).removeprefix("torch."),
        sha256=sha256_folder(folder),
    )


def _by_adapter_and_base(
    config: ExportConfig, sources: PackageSources, checked: CheckedPages
) -> tuple[list[StepByStep], list[StepByStep]]:
    """Return the adapter's readings, and the base's first token of each page."""
    reader = fine_tuned_transcriber(config, sources, sources.evaluated_tokens)
    by_adapter = _readings(reader, checked)
    with reader.without_adapter(max_new_tokens=1) as base:
        return by_adapter, _readings(base, checked)


def _merge(config: ExportConfig, sources: PackageSources, folder: Path) -> None:
    source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    device = default_device()
    adapted: Any = load_fine_tuned(
        config.base_model, config.adapter_dir, dtype=default_dtype(device), device=device, **source
    )
    merged: PreTrainedModel = adapted.merge_and_unload().to(MERGED_DTYPE)
    merged.save_pretrained(folder)
    processor = load_fine_tuned_processor(config.base_model, config.adapter_dir, **source)
    evaluated_family(config, sources, processor)  # gives it the evaluation's image settings
    processor.save_pretrained(folder)


def _merged_transcriber(config: ExportConfig, sources: PackageSources, folder: Path) -> Transcriber:
    device = default_device()
    location = str(folder.absolute())
    model = load_model(
        location, dtype=default_dtype(device), device=device, trust_remote_code=config.trust_remote_code
    ).eval()
    processor = load_processor(location, trust_remote_code=config.trust_remote_code)
    family = evaluated_family(config, sources, processor)
    rule = evaluated_rule(sources, processor, family)
    # graphed=False: see fine_tuned_transcriber.
    return Transcriber(model, processor, family, sources.evaluated_tokens, graphed=False, no_repeat=rule)


def _readings(transcriber: Transcriber, checked: CheckedPages) -> list[StepByStep]:
    # One page at a time: padding next to a longer page could change the text too.
    return [transcriber.read_step_by_step(page) for page in checked.pages]
