"""Chooses the training backend. Imports no backend at the top: Unsloth patches transformers and peft when imported."""

from __future__ import annotations

import importlib.util
import os

from components.shared.errors import UserError
from components.shared.models.allocator_settings import let_segments_grow
from components.shared.models.unsloth_inference import obstacle_to_bfloat16, obstacle_to_unsloth
from components.train.backends.compile_cache import use_compile_cache
from components.train.backends.protocol import Backend
from components.train.config import TrainConfig


def choose_backend(config: TrainConfig) -> tuple[Backend, str]:
    """Return the backend and the reason for choosing it, as text.

    Raises:
        UserError: the config asks for Unsloth or an optimizer that cannot run on this machine.
    """
    if config.optim == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "adamw_8bit needs the bitsandbytes package", where="optim", mend="install the gpu extra, or use adamw_torch"
        )
    if config.backend == "standard":
        return _standard(), "asked for by the config"
    obstacle, mend = obstacle_to_unsloth(), "set it to standard or auto"
    if obstacle is None and config.dtype != "float32":
        # Check before Unsloth is imported: it disables torch's emulation of bfloat16, for the standard backend too.
        obstacle, mend = obstacle_to_bfloat16(), "set dtype to float32, or backend to standard"
    if config.backend == "unsloth":
        if obstacle:
            raise UserError(f"Unsloth cannot run: {obstacle}", where="backend", mend=mend)
        return _unsloth(config), "asked for by the config"
    if obstacle:
        return _standard(), obstacle
    return _unsloth(config), "a CUDA device and the unsloth package are there"


def _standard() -> Backend:
    let_segments_grow()
    from components.train.backends.standard import StandardBackend

    return StandardBackend()


def _unsloth(config: TrainConfig) -> Backend:
    use_compile_cache(config.compile_cache_dir)
    # Unsloth sends usage statistics over the network unless this is set.
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    from components.train.backends.unsloth import UnslothBackend

    return UnslothBackend()
