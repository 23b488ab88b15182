"""Settings of torch's memory allocator on a GPU, which reads them when CUDA starts. Imports no torch."""

import os
from pathlib import Path


def let_segments_grow() -> None:
    """Let the allocator grow its blocks, unless the user set it up; call before anything starts CUDA."""
    if {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        return
    # There the first allocation fails with it, and Unsloth leaves it out (unslothai/unsloth#3511, #2401).
    on_wsl, on_jetson = "microsoft" in os.uname().release.lower(), Path("/etc/nv_tegra_release").exists()
    if not (on_wsl or on_jetson):
        # Batches differ in length, and without this the allocator keeps a block for each: on an H200 43.6 GiB were
        # reserved where 19.2 GiB were in use (standard, 16-bit).
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
