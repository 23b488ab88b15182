"""What a run's training needs of this machine: CUDA devices and packages; checked before anything runs here."""

import ctypes
import importlib.util
import os
from typing import Any

from components.shared.errors import UserError
from components.train.processes.torchrun import CPU_PROCESSES_VARIABLE

_CUDA = "libcuda.so.1"


def check_machine(settings: dict[str, dict[str, Any]]) -> None:
    """Refuse settings of train and evaluate that need a device or a package that this machine lacks.

    A cluster's machines have their own: their steps check them.

    Raises:
        UserError: names the setting.
    """
    train, devices = settings["train"], cuda_devices()
    if train["load_in_8bit"] and not devices:
        raise _refusal("8-bit weights: no CUDA device on this machine", "train.load_in_8bit", "use 4 bits, or 16")
    for name in ("load_in_4bit", "load_in_8bit"):
        if train[name] and importlib.util.find_spec("bitsandbytes") is None:
            raise _refusal("it needs the bitsandbytes package", f"train.{name}", "install the gpu extra")
    if train["optim"] == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise _refusal("it needs the bitsandbytes package", "train.optim adamw_8bit", "use adamw_torch")
    for step in ("train", "evaluate"):
        if settings[step]["backend"] != "unsloth":
            continue
        if not devices:
            raise _refusal("Unsloth cannot run: no CUDA device on this machine", f"{step}.backend", "use standard")
        if importlib.util.find_spec("unsloth") is None:
            raise _refusal("the unsloth package is not installed", f"{step}.backend", "install it, or use standard")
    wanted = train["num_gpus"]
    if wanted > max(1, devices) and os.environ.get(CPU_PROCESSES_VARIABLE) != "1":
        problem = f"{wanted} GPUs are asked for, and this machine has {devices} CUDA devices"
        raise _refusal(problem, "train.num_gpus", f"set it to {max(1, devices)}")


def cuda_devices() -> int:
    """Return the number of CUDA devices that this process may use, by the driver's library; 0 without one."""
    try:
        cuda, count = ctypes.CDLL(_CUDA), ctypes.c_int(0)
    except OSError:
        return 0
    return count.value if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def _refusal(problem: str, where: str, mend: str) -> UserError:
    return UserError(problem, where=where, mend=mend)
