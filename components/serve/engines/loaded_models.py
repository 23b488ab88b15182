"""The models in memory: the base, the adapters on it, and whole models after full fine-tuning."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin

from components.serve.config import ServeConfig
from components.serve.reading.evaluated import evaluated_reading
from components.serve.reading.version_reading import VersionReading, version_reading
from components.shared.errors import UserError
from components.shared.models.adapter_loading import (
    adapter_kind,
    check_base_of_adapter,
    load_fine_tuned,
    load_fine_tuned_processor,
    with_adapter,
)
from components.shared.models.base_models import base_model_location
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import (
    default_device,
    default_dtype,
    load_model,
    load_processor,
    model_type_of,
    release_memory,
)
from components.shared.reading.transcriber import Transcriber


@dataclass(frozen=True)
class LoadedModel:
    """A version that can read: ``bare`` is transformers' model, whose layers hold the adapters."""

    name: str
    bare: Any
    transcriber: Transcriber
    adapter_name: str | None
    """PEFT's name of the version's adapter; None for the base and for a whole model"""
    reading: VersionReading


class LoadedModels:
    """Loads, activates and unloads; only one thread may use it, because PEFT's active adapter is the model's state."""

    def __init__(self, config: ServeConfig, base_name: str) -> None:
        self._config = config
        self._base_model = config.base_model or config.model
        self._device = default_device()
        self._numbers = count(1)
        self._active: str | None = None
        self._source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        self._base: Any = load_model(
            self._base_model, dtype=default_dtype(self._device), device=self._device, **self._source
        ).eval()
        processor = load_processor(self._base_model, **self._source)
        packaged = Path(base_model_location(self._base_model))  # a whole model's package can be a base
        reading = self._reading(processor, packaged)
        self._models = {base_name: _loaded(base_name, self._base, processor, reading, None)}
        self._base_name = base_name

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self._device

    def of(self, name: str) -> LoadedModel:
        """Return a loaded version."""
        return self._models[name]

    def load(self, name: str, folder: Path) -> LoadedModel:
        """Load an adapter, or a whole model, from a folder that the train step or a package made.

        Raises:
            UserError: the folder holds neither, or an adapter of another base; weights that are truncated or NaN.
        """
        config = self._config
        if name in self._models:
            raise UserError("a model of this name is loaded already", where=name, mend="unload it first")
        check_base_of_adapter(self._base_model, config.revision, folder)
        processor = load_fine_tuned_processor(self._base_model, folder, **self._source)
        reading = self._reading(processor, folder)  # before the weights: where it fails, nothing is left of them
        if adapter_kind(folder) == "model":
            placed: dict[str, Any] = {"dtype": default_dtype(self._device), "device": self._device, **self._source}
            model: Any = load_fine_tuned(self._base_model, folder, **placed)
            self._models[name] = _loaded(name, model, processor, reading, None)
            return self._models[name]
        adapter_name = f"adapter_{next(self._numbers)}"  # PEFT's names may hold no dots
        self._base = with_adapter(self._base, self._base_model, folder, adapter_name).eval()
        self._active = None
        self._models[name] = _loaded(name, self._base.get_base_model(), processor, reading, adapter_name)
        return self._models[name]

    def unload(self, name: str) -> None:
        """Free a version's memory; the base stays."""
        gone = self._models.pop(name)
        if gone.adapter_name is not None:
            if list(self._base.peft_config) == [gone.adapter_name]:
                self._base = self._base.unload()  # without an adapter, a PeftModel takes no other one
            else:
                self._base.delete_adapter(gone.adapter_name)
            self._active = None
        del gone
        release_memory()

    def activate(self, name: str) -> None:
        """Make the following forward passes of ``of(name).bare`` those of that version."""
        if name == self._active or not isinstance(self._base, PeftModel):
            return
        adapter_name, tuner = self._models[name].adapter_name, cast(Any, self._base.base_model)
        if adapter_name is not None:
            tuner.enable_adapter_layers()
            self._base.set_adapter(adapter_name, inference_mode=True)
        elif name == self._base_name:
            tuner.disable_adapter_layers()
        self._active = name

    def _reading(self, processor: ProcessorMixin, folder: Path) -> VersionReading:
        family = family_of(model_type_of(self._base_model, **self._source))
        return version_reading(self._config, evaluated_reading(folder), processor, family)


def _loaded(
    name: str, model: PreTrainedModel, processor: ProcessorMixin, reading: VersionReading, adapter_name: str | None
) -> LoadedModel:
    transcriber = Transcriber(
        model, processor, reading.family, reading.max_new_tokens, graphed=False, no_repeat=reading.no_repeat
    )
    return LoadedModel(name, model, transcriber, adapter_name, reading)
