"""Failures of the machine that a user can mend: out of memory, disk full, no permission, a path that cannot be.

Libraries wrap them in their own exceptions, so the causes of an exception are checked too.
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
from typing import TYPE_CHECKING

from components.shared.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel  # not at run time: `deepsynth --help` has no settings

_FULL = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than the file system or ulimit -f allows",
}
_MORE_ROOM = "make room there, or name a folder on a larger disk"
_FULL_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large (os error": errno.EFBIG,
}
_FULL_IN_SQLITE = {
    "SQLITE_FULL": errno.ENOSPC,
    **dict.fromkeys(("SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_SHMSIZE"), errno.EFBIG),
}
"""SQLite says "disk I/O error" for every failed write but ENOSPC (https://www.sqlite.org/rescode.html)."""
_DENIED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
}
_UNUSABLE = {
    errno.ENAMETOOLONG: "the name is longer than the file system allows",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file or folder of this name exists already",
    errno.EISDIR: "it is a folder, not a file",
    errno.ELOOP: "its links lead in a circle",
}
_LONGEST_PATH = 120
"""Characters of a path in an error; of a longer one the end is left out."""
_MEMORY_TEXTS = (
    *("defaultcpuallocator: can't allocate memory", "cannot allocate memory"),
    "failed to map segment from shared object",  # the loader, where a library is imported
)
_DEVICE_MEMORY_TEXTS = ("_status_alloc_failed", "device_allocation_failed")
"""How cuBLAS, cuDNN and similar libraries report missing device memory, in a plain RuntimeError."""
_UNEXPLAINED_TEXTS = (
    *("cublas_status_not_initialized", "cudnn_status_not_initialized"),
    "unable to find an engine to execute this computation",
    *("mha_graph.execute(", "mha_graph->execute("),
)
"""Errors of these libraries that give no reason: missing memory is a possible one."""
_SHARED_MEMORY_TEXTS = ("out of shared memory", "insufficient shared memory", "unable to open shared memory object")
_MEMORY_SETTINGS = {
    "per_device_train_batch_size": "lower {name} (it is {value}; gradient_accumulation_steps makes up for it)",
    "per_device_eval_batch_size": "lower {name} (it is {value})",
    "workers": "lower {name} (it is {value})",
    "load_in_4bit": "set {name} to true",
    "max_length": "lower {name} (it is {value})",
}
"""Settings that decide how much memory a step uses, and how to change them."""
_LONGEST_QUOTE = 360
"""Characters; PyTorch's message about device memory is about 350 long and ends with the use by other processes."""
_CACHE_VARIABLES = ("HF_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "DEEPSYNTH_CHECKPOINTS")
_INPUTS = ("dataset_dir", "adapter_dir", "evaluation_dir", "gate_dir")
_ALMOST_NOTHING = 64 * 2**20
"""Bytes; a folder with less free space than this is named as the full one."""


class MachineFailureError(UserError):
    """Memory, disk space or a permission was missing, or a path cannot be used."""


@contextmanager
def named_failures(what: str, settings: "BaseModel | None" = None) -> Iterator[None]:
    """Turn a failure of the machine in the block into an error that says where it happened and what to do.

    Args:
        what: what ran, e.g. ``"train"``.
        settings: its settings; the error names their folders and batch sizes.

    Raises:
        MachineFailureError: memory, disk space or a permission was missing, or a path cannot be used. Other errors
            propagate unchanged.
    """
    try:
        yield
    except Exception as error:
        if named := named_failure(error, what, settings):
            for note in getattr(error, "__notes__", ()):
                named.add_note(note)
            raise named from error
        raise


def named_failure(error: BaseException, what: str, settings: "BaseModel | None" = None) -> MachineFailureError | None:
    """Return the failure of the machine that caused ``error``; None if there is none or ``error`` already names it."""
    if isinstance(error, MachineFailureError):
        return None
    causes = list(causes_of(error))
    if named := _out_of_memory(causes, what, settings):
        return named
    if named := _disk_full(causes, what, settings):
        return named
    # For a file without read permission the step's own message is more specific.
    return None if isinstance(error, UserError) else _denied(causes) or _unusable(causes)


def ran_out_of_device_memory(error: BaseException) -> bool:
    """Return whether ``error`` or one of its causes says that the device's memory was too small.

    PyTorch's allocator raises ``torch.OutOfMemoryError``; the CUDA runtime, CUDA graphs, cuBLAS, cuDNN and compilers
    have their own errors. After any of them the device is still usable, with smaller batches.
    """
    return any(_is_device_memory(cause) for cause in causes_of(error))


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its cause, the cause's cause, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _out_of_memory(causes: list[BaseException], what: str, settings: "BaseModel | None") -> MachineFailureError | None:
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
    torch = sys.modules.get("torch")  # not imported here: without torch loaded, no GPU was used
    if torch is None or not isinstance(error, RuntimeError):
        return False
    said = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or ("cuda" in said and "out of memory" in said)
        or _has(said, _DEVICE_MEMORY_TEXTS + _UNEXPLAINED_TEXTS)
    )


def _less_memory(settings: "BaseModel | None") -> str:
    known = settings.model_dump(include=set(_MEMORY_SETTINGS)) if settings else {}
    hints = [
        hint.format(name=name, value=known[name])
        for name, hint in _MEMORY_SETTINGS.items()
        if name in known and known[name] not in (True, None, 1)
    ]
    return ", ".join([*hints, "or give the step more memory"] if hints else ["give the step more memory"])


def _disk_full(causes: list[BaseException], what: str, settings: "BaseModel | None") -> MachineFailureError | None:
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
            mend="raise the limit, or name a folder elsewhere" if number == errno.EFBIG else _MORE_ROOM,
        )
    return None


def _full_number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.errno
    if (name := getattr(error, "sqlite_errorname", None)) in _FULL_IN_SQLITE:
        return _FULL_IN_SQLITE[name]
    # safetensors, PyArrow and Rust libraries put the system's message into their own errors.
    if isinstance(error, UserError):
        return None  # its cause is checked separately, and its text may only quote the message
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


def _unusable(causes: list[BaseException]) -> MachineFailureError | None:
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _UNUSABLE and (place := _path_of(cause)):
            where = str(place) if len(str(place)) <= _LONGEST_PATH else f"{str(place)[:_LONGEST_PATH]}…"
            return MachineFailureError(_UNUSABLE[cause.errno], where=where, mend="name another place")
    return None


def _path_of(error: BaseException) -> Path | None:
    name = getattr(error, "filename", None)
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _folders_written(settings: "BaseModel | None") -> dict[str, Path]:
    """Return the folders that a step may write to, one per disk, by the setting or variable that names them.

    A failed ``write`` does not name its file.
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
    """Return the folder, or its nearest parent that exists."""
    folder = folder.absolute()
    while not _is_folder(folder):
        folder = folder.parent
    return folder


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:  # on a parent folder
        return False


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text.lower() for part in parts)
