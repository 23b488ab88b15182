"""Settings of torch's GPU memory allocator, which reads them when CUDA starts. This module does not import torch."""

import os
from pathlib import Path


def let_segments_grow() -> None:
    """Let the allocator grow its blocks unless the user configured it; call this before anything starts CUDA."""
    if {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        return
    # On WSL and Jetson the first allocation fails with it; Unsloth omits it there too (unslothai/unsloth#3511, #2401).
    on_wsl, on_jetson = "microsoft" in os.uname().release.lower(), Path("/etc/nv_tegra_release").exists()
    if not (on_wsl or on_jetson):
        # Batches differ in length, and without this the allocator keeps a block for each length: on an H200 it
        # reserved 43.6 GiB while 19.2 GiB were in use (standard, 16-bit).
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
