"""Every row's transcription of the pages: base, adapter, champion, and the classic engines that are installed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from components.evaluate.config import EvaluateConfig
from components.evaluate.readers.champion import Champion
from components.evaluate.readers.classic_engines import installed_engines
from components.evaluate.readers.generation import Transcription, transcribe
from components.evaluate.readers.pages import EvaluationPages
from components.shared.artifacts.evaluation_report import RowName
from components.shared.models.adapter_loading import load_fine_tuned, load_fine_tuned_processor
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import (
    default_device,
    default_dtype,
    load_model,
    load_processor,
    model_type_of,
    release_memory,
)
from components.shared.models.refused_families import base_family
from components.shared.models.unsloth_inference import load_with_unsloth
from components.shared.reading.image_settings import ImageSettings, backend_of, with_image_settings
from components.shared.reading.no_repeat_settings import NoRepeatSettings
from components.shared.reading.transcriber import Transcriber

_THREADS_BESIDE_A_GPU = 4


def transcriptions(
    config: EvaluateConfig, champion: Champion | None, pages: EvaluationPages
) -> Iterator[tuple[RowName, Transcription]]:
    """Yield each row's name and its transcription; only one model at a time is in memory.

    The adapter comes first: one that does not fit the base fails before the base has read everything.
    """
    if config.adapter_dir is not None:
        yield "adapter", _read_with_model(config, pages, "adapter", config.adapter_dir)
    yield "base", _read_with_model(config, pages, "base", None)
    if champion is not None:
        yield "champion", _read_with_model(config, pages, "champion", champion.folder)
    if config.classic_ocr:
        for engine in installed_engines():
            yield engine.name, engine.transcribe(pages)


def _read_with_model(
    config: EvaluateConfig, pages: EvaluationPages, name: RowName, adapter_dir: Path | None
) -> Transcription:
    source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if adapter_dir is None:
        processor = load_processor(config.base_model, **source)
    else:
        processor = load_fine_tuned_processor(config.base_model, adapter_dir, **source)
    model = _loaded(config, adapter_dir)
    family = family_of(model_type_of(config.base_model, **source))
    family = with_image_settings(ImageSettings.of(config.model_dump()), processor, family)
    no_repeat = no_repeat_settings(config).rule(processor, family)
    transcriber = Transcriber(model, processor, family, config.max_new_tokens, no_repeat=no_repeat)
    try:
        found = transcribe(pages, transcriber, config.per_device_eval_batch_size, name, _threads(config))
        return replace(found, image_backend=backend_of(processor))
    finally:
        del model, transcriber
        release_memory()


def no_repeat_settings(config: EvaluateConfig) -> NoRepeatSettings:
    """Return what an answer may not repeat, in numbers.

    Raises:
        UserError: the base's authors publish no rule.
    """
    return NoRepeatSettings.of(config.model_dump(), base_family(config.base_model, config.revision))


def _threads(config: EvaluateConfig) -> int:
    """On a CPU the model needs the cores itself."""
    if config.dataloader_num_workers is not None:
        return config.dataloader_num_workers
    return _THREADS_BESIDE_A_GPU if default_device().type == "cuda" else 0


def _loaded(config: EvaluateConfig, adapter_dir: Path | None) -> PreTrainedModel:
    device = default_device()
    source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if config.backend == "unsloth":
        return load_with_unsloth(config.base_model, adapter_dir, dtype=default_dtype(device), **source)
    placed: dict[str, Any] = {"dtype": default_dtype(device), "device": device, **source}
    if adapter_dir is None:
        return load_model(config.base_model, **placed).eval()
    return load_fine_tuned(config.base_model, adapter_dir, **placed)
