"""Output folders that appear complete or not at all, written by one process at a time."""

import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.shared.errors import UserError

log = logging.getLogger(__name__)

_PARTIAL = re.compile(r"\.(?P<target>.+)\.partial-(?P<process>[0-9]+)-(?P<host>[0-9a-f]{8})")
_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)
_held: set[Path] = set()
"""This process's locks: POSIX locks do not exclude its other threads."""
_held_access = threading.Lock()


_open_scratches = set[Path]()


@contextmanager
def finished_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; it is renamed to ``target`` if the block ends without an error.

    An error, Ctrl-C or a kill inside the block leaves no ``target``. The temporary folder
    (``.<name>.partial-<pid>-<host>``) is removed. After SIGKILL or a power cut it stays, and the next
    ``finished_folder`` of the same target on the same host removes it. ``.<name>.lock`` keeps other processes away
    from ``target`` during the block.

    Raises:
        UserError: ``target`` exists and is not an empty folder, another process is writing it, or the finished folder
            cannot be renamed; then its content is kept, and the error says where.
    """
    target = Path(target).absolute()
    _check_is_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target) as is_locked:
        _check_is_free(target)  # another process may have finished it in between
        _remove_leftovers(target, is_locked)
        partial = target.with_name(f".{target.name}.partial-{os.getpid()}-{_host()}")
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _rename(partial, target)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder among the system's temporary files, and remove it afterwards.

    Folders of the same ``name`` that killed processes of this user and host left are removed first, and named in the
    log.
    """
    place = Path(tempfile.gettempdir())
    for left in unfinished_folders(place):
        if left.target.startswith(f"{name}-") and _is_left(left) and _is_ours(left.path):
            _remove_leftover(left.path)
    scratch = place / f".{name}-{secrets.token_hex(4)}.partial-{os.getpid()}-{_host()}"
    _open_scratches.add(scratch)
    try:
        scratch.mkdir(mode=0o700)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _open_scratches.discard(scratch)


def _is_left(folder: "UnfinishedFolder") -> bool:
    """Return whether nobody uses a scratch folder; a container that is started again has its old number, 1."""
    is_earlier_life = folder.process == os.getpid() and folder.path not in _open_scratches
    return folder.lives is False or (folder.lives is True and is_earlier_life)


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.getuid()
    except FileNotFoundError:  # another process has removed it meanwhile
        return False


@dataclass(frozen=True)
class UnfinishedFolder:
    """A temporary folder of ``finished_folder``.

    Attributes:
        target: the name that it gets when it is finished.
        lives: whether the process that writes it runs; None on another host, where nothing is known of it.
        process: the number of that process.
    """

    path: Path
    target: str
    lives: bool | None
    process: int


def unfinished_folders(folder: Path) -> list[UnfinishedFolder]:
    """Return the temporary folders of ``finished_folder`` in ``folder``."""
    found = []
    for path in folder.glob(".*/") if folder.is_dir() else []:
        if match := _PARTIAL.fullmatch(path.name):
            lives = _runs(int(match["process"])) if match["host"] == _host() else None
            found.append(UnfinishedFolder(path, match["target"], lives, int(match["process"])))
    return found


def _check_is_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            "the output folder exists and is not empty", where=str(target), mend="remove it or name another output_dir"
        )


@contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """Hold the lock on ``target``; the kernel releases it when this process ends, however it ends.

    Yields False where the file system has no locks: others may be writing there too. A POSIX lock, not flock: forked
    children, such as data workers, would inherit that and may outlive a killed step.
    """
    path = target.with_name(f".{target.name}.lock")
    with _held_access:
        if path in _held:
            raise _being_written(target, f"process {os.getpid()}")
        _held.add(path)
    try:
        descriptor, is_locked = _opened_lock(path, target)
        try:
            yield is_locked
        finally:
            path.unlink(missing_ok=True)  # before the lock is released
            os.close(descriptor)
    finally:
        with _held_access:
            _held.discard(path)


def _opened_lock(path: Path, target: Path) -> tuple[int, bool]:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            if error.errno in _HELD_BY_ANOTHER:
                os.close(descriptor)
                raise _being_written(target, holder or "another process") from error
            log.warning("%s: the file system has no locks (%s): nothing keeps others away", path, error.strerror)
            return descriptor, False
        if _is_file(descriptor, path):
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".ljust(100).encode(), 0)
            return descriptor, True
        os.close(descriptor)  # its last holder removed the file after it was opened here


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _being_written(target: Path, holder: str) -> UserError:
    return UserError(
        f"{holder} is writing this output folder",
        where=str(target),
        mend="wait until it has finished, or name another output_dir",
    )


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _host() -> str:
    """Return a short name of this host for file names."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _remove_leftovers(target: Path, is_locked: bool) -> None:
    """Remove what killed processes of this host left.

    While the lock is held, none of them lives: where one seems to, its number went to another process, in a container
    often to this one. Without a lock only what is known to be dead is removed.
    """
    for unfinished in unfinished_folders(target.parent):
        is_dead = unfinished.lives is False or unfinished.process == os.getpid() or is_locked
        if unfinished.target == target.name and unfinished.lives is not None and is_dead:
            _remove_leftover(unfinished.path)


def _remove_leftover(leftover: Path) -> None:
    shutil.rmtree(leftover, ignore_errors=True)
    removed = not leftover.exists()
    log.warning("%s what a killed process left: %s", "removed" if removed else "cannot remove", leftover)


def _rename(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
    except OSError as error:
        kept = target.with_name(f"{target.name}.kept-{os.getpid()}")
        try:
            partial.rename(kept)  # away from the next run, which removes leftovers
        except OSError:
            kept = partial
        raise UserError(
            f"the finished output cannot be moved to its place ({error.strerror}); it is kept in {kept}",
            where=str(target),
            mend=f"remove the obstacle and rename {kept.name} to {target.name} before the next run",
        ) from error
