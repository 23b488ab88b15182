"""Checks before loading whether a model's weights can fit into memory at all.

The check uses a lower bound: nothing is refused that would run. On a CPU, weights that are loaded in the number format
of their file do not count. They are mapped from the file, and the kernel can drop and read such pages again
(transformers 5.17: 6.5 MiB of bfloat16 weights took 1 MiB of the process's own memory, and 15 MiB in float32).
"""

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from components.shared.errors import UserError
from components.shared.memory_limits import memory_limit, memory_taken
from components.shared.models.base_models import base_model_location

log = logging.getLogger(__name__)

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# A family may leave some of the stored weights out, such as layers for speculative decoding.
_LOADED_SHARE = 0.9
# Quantised weights stay as they are stored.
_CONVERTED = ("F64", "F32", "F16", "BF16")
_GIB = 2**30


@dataclass(frozen=True)
class LoadedFormat:
    """How a step holds a model's weights.

    Attributes:
        name: the number format, as safetensors writes it: F32, BF16, NF4 for four bits.
        bytes_per_value: bytes that a weight takes.
        bytes_to_train: bytes that each weight takes in addition where all of them are trained.
    """

    name: str
    bytes_per_value: float
    bytes_to_train: int = 0


FLOAT32 = LoadedFormat("F32", 4)
BFLOAT16 = LoadedFormat("BF16", 2)


def check_weights_fit(base_model: str, revision: str | None, loaded: LoadedFormat, mends: Sequence[str] = ()) -> None:
    """Compare the memory that the weights need at least with what the GPU has free, or the container or machine allows.

    Does nothing where the weights are not on this machine yet.

    Args:
        base_model: a folder, a hub id, or ``tiny-base``.
        revision: the commit or tag of a hub model.
        loaded: how the step holds the weights.
        mends: what the step's user can do besides giving it more memory.

    Raises:
        UserError: they cannot fit.
    """
    import torch

    stored = stored_values(base_model, revision)
    if stored is None:
        return
    counted = sum(stored[name] for name in _CONVERTED)
    if torch.cuda.is_available():
        room, taken = torch.cuda.mem_get_info()[0], 0
        place, more, said = "GPU memory", "use a GPU with more memory", "GiB is free"
    else:
        room, taken = memory_limit(), memory_taken()
        place, more = "memory limit", _more_memory()
        said = f"GiB is allowed for this program, which has taken {taken / _GIB:.2f}"
        counted -= 0 if loaded.bytes_to_train else stored[loaded.name]
    needed = counted * _LOADED_SHARE * (loaded.bytes_per_value + loaded.bytes_to_train)
    if taken + needed > room:
        use = "loading and training" if loaded.bytes_to_train else "loading"
        raise UserError(
            f"{use} the weights of {base_model} takes {needed / _GIB:.2f} GiB at least, and {room / _GIB:.2f} {said}",
            where=place,
            mend=", or ".join([more, *mends]),
        )


def stored_values(base_model: str, revision: str | None) -> Counter[str] | None:
    """Return the number of values by number format (F32, BF16, …) in a model's safetensors files.

    None if the files are not on this machine, or cannot be read.
    """
    location = base_model_location(base_model)
    try:
        if Path(location).is_dir():
            return _values_in(Path(location))
        found = try_to_load_from_cache(location, "config.json", revision=revision)
        return _values_in(Path(found).parent) if isinstance(found, str) else None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        log.debug("the weights' sizes cannot be read; loading will say why: %s", error)
        return None


def _values_in(folder: Path) -> Counter[str] | None:
    index = folder / _INDEX
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else {_WEIGHTS}
    if not all((folder / name).is_file() for name in names):
        return None
    values: Counter[str] = Counter()
    for name in sorted(names):
        with safe_open(folder / name, "np") as stored:
            for key in stored.keys():  # noqa: SIM118 - not a dict: it is not iterable
                part = stored.get_slice(key)
                values[part.get_dtype()] += math.prod(part.get_shape())
    return values


def _more_memory() -> str:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "raise resources.gpu.memory_limit in the environment's file"
    return "give the step more memory (docker: --memory)"
