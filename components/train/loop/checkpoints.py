"""Verified checkpoints: read back and hashed when written, compared with their hashes before use.

    CHECKPOINT_DIR/training-<digest of the training's identity>/checkpoint-<step>/checkpoint.json

A checkpoint without ``checkpoint.json``, or with a file that differs from it, is not used. Trainings with different
settings have separate folders, so that one volume serves many trainings.
"""

import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from components.shared.digests import sha256_file, sha256_json
from components.shared.errors import UserError
from components.shared.programs.access_rights import not_writable
from components.train.batches.batch_plan import pages_per_step
from components.train.config import TrainConfig

log = logging.getLogger(__name__)

SEAL_FILE = "checkpoint.json"
_DO_NOT_SHAPE_THE_TRAINING = {
    *("dataset_dir", "output_dir", "preset", "backend", "logging_steps", "dataloader_num_workers"),
    *("compile_cache_dir", "checkpoint_dir", "save_steps", "resume_from_checkpoint", "num_gpus"),
    *("eval_steps", "eval_pages", "max_eval_samples", "ignore_memory_estimate"),
    *("vision_features_dir", "vision_features_gib", "fit_batch"),
}
_MAY_GROW = {"max_steps", "num_train_epochs"}


class NotFiniteError(ValueError):
    """A weight or an optimizer state is nan or infinite."""


def training_identity(config: TrainConfig, backend: str, dataset_digest: str) -> dict[str, Any]:
    """Return the training's identity: what must be equal for two trainings to have the same losses at each step."""
    settings = config.model_dump(mode="json", exclude=_DO_NOT_SHAPE_THE_TRAINING)
    if config.fit_batch:  # what fits may differ in the next attempt; the pages of each step do not
        settings |= {"per_device_train_batch_size": pages_per_step(config), "gradient_accumulation_steps": 1}
    return {**settings, "backend": backend, "dataset_digest": dataset_digest, "base_files": _file_sizes(config)}


def _file_sizes(config: TrainConfig) -> dict[str, int]:
    folder = Path(config.base_model)
    if not folder.is_dir():
        return {}
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def seal(folder: Path, step: int, finished: bool, identity: dict[str, Any]) -> None:
    """Read all files of a checkpoint back, and write ``checkpoint.json`` with their sizes and hashes.

    Raises:
        NotFiniteError: a value is nan or infinite.
        OSError, RuntimeError, ValueError: a file cannot be written or read back.
    """
    files = {}
    for path in _files(folder):
        _read_back(path)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    content = {"step": step, "finished": finished, "files": files, "training": identity}
    partial = folder / f".{SEAL_FILE}"
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / SEAL_FILE)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.lstrip(".") != SEAL_FILE)


def _read_back(path: Path) -> None:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - not a dict: it is not iterable
                _check_finite(stored.get_tensor(name), f"{path.name}, {name}")
    elif path.name == "optimizer.pt":
        for index, state in torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state"].items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    _check_finite(value, f"{path.name}, {name} of parameter {index}")
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))


def _check_finite(values: torch.Tensor, where: str) -> None:
    if values.is_floating_point() and not bool(torch.isfinite(values).all()):
        raise NotFiniteError(f"{where} is not finite")


def damage(folder: Path) -> str | None:
    """Return the reason, as text, why ``folder`` is not a whole checkpoint; None if it is one."""
    try:
        files = read_seal(folder)["files"]
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"] or sha256_file(path) != expected["sha256"]:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return f"it has no {SEAL_FILE}, so its writing was not finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return None


def read_seal(folder: Path) -> dict[str, Any]:
    """Return the content of ``checkpoint.json``."""
    content: dict[str, Any] = json.loads((folder / SEAL_FILE).read_text(encoding="utf-8"))
    return content


def newest_whole_checkpoint(training_folder: Path) -> Path | None:
    """Return the undamaged checkpoint of the highest step, or None; log a warning for each damaged one."""
    found = [(step, path) for path in training_folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (step := _step(path))]
    for _, path in sorted(found, reverse=True):
        reason = damage(path)
        if reason is None:
            return path
        log.warning("%s is passed over: %s", path, reason)
    if found:
        log.warning("no checkpoint in %s is whole: the training starts at its first step", training_folder)
    return None


def _step(path: Path) -> int | None:
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)
    return int(match.group(1)) if match and path.is_dir() else None


def is_result(folder: Path, planned_steps: int) -> bool:
    """Return whether this checkpoint is the training's result: of the last step, or of the step of early stopping."""
    content = read_seal(folder)
    state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    stopped_early = content["finished"] and content["step"] < state["max_steps"]
    return bool(stopped_early or content["step"] == planned_steps)


def given_checkpoint(folder: Path, identity: dict[str, Any], planned_steps: int) -> Path:
    """Return ``folder`` after checking it.

    Raises:
        UserError: it is not a whole checkpoint, has other settings, or is of a step beyond the last one.
    """
    where = f"resume_from_checkpoint {folder}"
    if reason := damage(folder):
        raise UserError(f"no whole checkpoint: {reason}", where=where, mend="name another one, or use auto")
    content = read_seal(folder)
    stored = content["training"]
    other = sorted(name for name in {*identity, *stored} if identity.get(name) != stored.get(name))
    if refused := [name for name in other if name not in _MAY_GROW]:
        name = refused[0]
        was, now = str(stored.get(name))[:80], str(identity.get(name))[:80]
        raise UserError(
            f"it was made with other settings: {', '.join(refused)} ({name} was {was} and is {now})",
            where=where,
            mend="set them as they were, or train from the start with resume_from_checkpoint: never",
        )
    if content["step"] > planned_steps:
        raise UserError(
            f"it is of step {content['step']}, and the training ends after {planned_steps}",
            where=where,
            mend="raise max_steps or num_train_epochs, or name an earlier checkpoint",
        )
    if other:
        log.warning("%s was made with another %s: the schedule changes at this step", folder, " and ".join(other))
    return folder


@contextmanager
def training_folder(config: TrainConfig, identity: dict[str, Any], scratch: Path) -> Iterator[Path]:
    """Yield the folder of this training's checkpoints, locked; remove it if the block ends without an error.

    Without ``checkpoint_dir`` the folder is in ``scratch``. With ``resume_from_checkpoint: never`` the checkpoints in
    it are removed first.

    Raises:
        UserError: it cannot be written, or another process trains with the same settings.
    """
    if config.checkpoint_dir is None:
        yield scratch / "checkpoints"
        return
    folder = config.checkpoint_dir.absolute() / f"training-{sha256_json(identity)[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except OSError as error:
        raise not_writable(error, f"checkpoint_dir {folder}", folder) from error
    try:
        _lock(lock, folder)
        if config.resume_from_checkpoint == "never":
            for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(path)
        yield folder
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            _remove_or_warn(path)
    finally:
        os.close(lock)
    # Close the lock file first: NFS renames an open file that is deleted, and the folder would not be empty.
    _remove_or_warn(folder)


def _remove_or_warn(folder: Path) -> None:
    """Remove ``folder``; a failure only costs space, so it must not fail a finished training."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        log.warning("%s is not needed any more and cannot be removed: %s", folder, error)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        # Not flock: data workers inherit that lock and may outlive a killed training by seconds.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise UserError(
            "another process trains with these settings and writes its checkpoints here",
            where=f"checkpoint_dir {folder}",
            mend="wait for it, or name another checkpoint_dir",
        ) from error
    except OSError as error:
        log.warning("%s cannot be locked (%s): let no two trainings share it", folder, error.strerror)
