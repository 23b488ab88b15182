"""Sets the folder of compiled kernels, so that later runs need not compile them again. Does not import torch."""

import os
from pathlib import Path


def use_compile_cache(folder: Path | None) -> Path:
    """Point Unsloth, torch.compile and Triton at ``folder`` and return it; call before any of them is imported.

    The default is ``deepsynth/compiled`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``). Variables
    that the user has set for one of the libraries are not overridden.
    """
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = (folder or cache_home / "deepsynth" / "compiled").absolute()
    for variable, name in (
        ("UNSLOTH_COMPILE_LOCATION", "unsloth_compiled_cache"),
        ("UNSLOTH_MEGA_CACHE_DIR", "unsloth_mega_cache"),
        ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
        ("TRITON_CACHE_DIR", "triton"),
    ):
        os.environ.setdefault(variable, str(place / name))
    place.mkdir(parents=True, exist_ok=True)
    return place
