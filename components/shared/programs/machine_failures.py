"""Failures of the machine that a user can mend: no memory left, no space left, no right to write.

Libraries wrap them in errors of their own, so an error's causes are looked at too.
"""

import errno
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from components.shared.errors import UserError

_FULL = {errno.ENOSPC: "no space is left on the disk", errno.EDQUOT: "the disk quota is used up"}
_FULL_TEXTS = {"no space left on device": errno.ENOSPC, "disk quota exceeded": errno.EDQUOT}
_DENIED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
}
_MEMORY_TEXTS = ("defaultcpuallocator: can't allocate memory", "cannot allocate memory")
_DEVICE_MEMORY_TEXTS = ("_status_alloc_failed", "device_allocation_failed")
"""How cuBLAS, cuDNN and their like say that there was no device memory: an error of theirs is a plain RuntimeError."""
_UNEXPLAINED_TEXTS = (
    *("cublas_status_not_initialized", "cudnn_status_not_initialized"),
    "unable to find an engine to execute this computation",
    *("mha_graph.execute(", "mha_graph->execute("),
)
"""What comes where these libraries keep the reason to themselves: it can be memory."""
_SHARED_MEMORY_TEXTS = ("out of shared memory", "insufficient shared memory", "unable to open shared memory object")
_MEMORY_SETTINGS = {
    "per_device_train_batch_size": "lower {name} (it is {value}; gradient_accumulation_steps makes up for it)",
    "per_device_eval_batch_size": "lower {name} (it is {value})",
    "workers": "lower {name} (it is {value})",
    "load_in_4bit": "set {name} to true",
    "max_length": "lower {name} (it is {value})",
}
"""Settings that decide how much memory a step takes, and what to do with them."""
_LONGEST_QUOTE = 360
"""Characters; PyTorch's figures of device memory end at about 350, with what other processes hold."""
_CACHE_VARIABLES = ("HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "DEEPSYNTH_CHECKPOINTS")
_INPUTS = ("dataset_dir", "adapter_dir", "evaluation_dir", "gate_dir")
_ALMOST_NOTHING = 64 * 2**20
"""Bytes; with less than this free, a folder is named as the one that is full."""


class MachineFailureError(UserError):
    """Memory, disk space or a permission was missing."""


@contextmanager
def named_failures(what: str, settings: BaseModel | None = None) -> Iterator[None]:
    """Turn a failure of the machine within the block into an error that says where it was and what to do.

    Args:
        what: what ran, e.g. ``"train"``.
        settings: what it was told; its folders and batch sizes are named in the error.

    Raises:
        MachineFailureError: memory, disk space or a permission was missing. All other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        if named := named_failure(error, what, settings):
            raise named from error
        raise


def named_failure(error: BaseException, what: str, settings: BaseModel | None = None) -> MachineFailureError | None:
    """Return the failure of the machine behind ``error``; None where there is none, or ``error`` names it already."""
    if isinstance(error, MachineFailureError):
        return None
    causes = list(causes_of(error))
    if named := _out_of_memory(causes, what, settings):
        return named
    if named := _disk_full(causes, what, settings):
        return named
    # The step's own words for a file that may not be read say more than the system's.
    return None if isinstance(error, UserError) else _denied(causes)


def ran_out_of_device_memory(error: BaseException) -> bool:
    """Return whether the device's memory was too small, as far as ``error`` or one of its causes tells.

    PyTorch's allocator raises ``torch.OutOfMemoryError``; the CUDA runtime, recorded graphs, cuBLAS, cuDNN and
    compilers have errors of their own. After any of them the device can be used, with less at a time.
    """
    return any(_is_device_memory(cause) for cause in causes_of(error))


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its cause, that one's cause, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _out_of_memory(causes: list[BaseException], what: str, settings: BaseModel | None) -> MachineFailureError | None:
    for cause in causes:
        said = " ".join(str(cause).split())
        quoted = textwrap.shorten(said, _LONGEST_QUOTE, placeholder=" …")
        if _has(said, _SHARED_MEMORY_TEXTS):
            return MachineFailureError(
                f"{what} ran out of shared memory ({quoted})",
                where="/dev/shm",
                mend="give the container more of it (docker --shm-size, a memory emptyDir on Kubernetes)",
            )
        if _is_device_memory(cause):
            problem = f"{what} ran out of memory ({quoted})"
            if _has(said, _UNEXPLAINED_TEXTS):
                problem = f"{what} failed, as it does where memory is short ({quoted})"
            return MachineFailureError(problem, where="GPU", mend=_less_memory(settings))
        if isinstance(cause, MemoryError) or _has(said, _MEMORY_TEXTS) or getattr(cause, "errno", 0) == errno.ENOMEM:
            reason = f" ({quoted})" if said else ""
            return MachineFailureError(f"{what} ran out of memory{reason}", where="RAM", mend=_less_memory(settings))
    return None


def _is_device_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # not imported for this: what never loaded it never used a GPU
    if torch is None or not isinstance(error, RuntimeError):
        return False
    said = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or ("cuda" in said and "out of memory" in said)
        or _has(said, _DEVICE_MEMORY_TEXTS + _UNEXPLAINED_TEXTS)
    )


def _less_memory(settings: BaseModel | None) -> str:
    known = settings.model_dump(include=set(_MEMORY_SETTINGS)) if settings else {}
    hints = [
        hint.format(name=name, value=known[name])
        for name, hint in _MEMORY_SETTINGS.items()
        if name in known and known[name] not in (True, None, 1)
    ]
    return ", ".join([*hints, "or give the step more memory"] if hints else ["give the step more memory"])


def _disk_full(causes: list[BaseException], what: str, settings: BaseModel | None) -> MachineFailureError | None:
    for cause in causes:
        number = _full_number(cause)
        if number is None:
            continue
        place = _path_of(cause)
        folders = {"": place} if place else _folders_written(settings)
        where = str(place) if place else _fullest(folders) or what
        return MachineFailureError(
            f"{_FULL[number]} ({'; '.join(_free(name, folder) for name, folder in folders.items())})",
            where=where,
            mend="make room there, or name a folder on a larger disk",
        )
    return None


def _full_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.errno
    # safetensors, PyArrow and Rust libraries have the system's words in errors of their own.
    if isinstance(error, UserError):
        return None  # its cause says it, or it is only a quotation
    said = str(error).lower()
    return next((number for text, number in _FULL_TEXTS.items() if text in said), None)


def _denied(causes: list[BaseException]) -> MachineFailureError | None:
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _DENIED and (place := _path_of(cause)):
            return MachineFailureError(
                f"{_DENIED[cause.errno]} (for the user {os.getuid()}, group {os.getgid()})",
                where=str(place),
                mend="give this user the right to use it, or name another place",
            )
    return None


def _path_of(error: BaseException) -> Path | None:
    name = getattr(error, "filename", None)
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _folders_written(settings: BaseModel | None) -> dict[str, Path]:
    """Return the folders that a step may write to, by the setting or variable that names them: one for each disk.

    A failed ``write`` names no file.
    """
    values = dict(settings) if settings else {}
    named = {name: value for name, value in values.items() if isinstance(value, Path) and name not in _INPUTS}
    named |= {name: Path(os.environ[name]) for name in _CACHE_VARIABLES if os.environ.get(name)}
    named["TMPDIR"] = Path(tempfile.gettempdir())
    by_disk: dict[int, tuple[str, Path]] = {}
    for name, folder in named.items():
        by_disk.setdefault(_existing(folder).stat().st_dev, (name, folder))
    return dict(by_disk.values())


def _fullest(folders: Mapping[str, Path]) -> str | None:
    name, folder = min(folders.items(), key=lambda item: _free_bytes(item[1]))
    return f"{name} {folder}" if _free_bytes(folder) < _ALMOST_NOTHING else None


def _free(name: str, folder: Path) -> str:
    return f"{_free_bytes(folder) / 2**20:,.0f} MiB are free in {f'{name} ' if name else ''}{_existing(folder)}"


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not _is_folder(folder):
        folder = folder.parent
    return folder


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:  # of a folder above
        return False


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text.lower() for part in parts)
