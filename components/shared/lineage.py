"""Digests and versions: what a result was made of, so that it can be made again."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_VERSIONED_PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "unsloth", "webdataset", "pillow")


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hex sha256 of a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_folder(folder: Path) -> str:
    """Return one hex sha256 over the relative paths and contents of all files below ``folder``."""
    return sha256_of_files(file_digests(folder))


def file_digests(folder: Path) -> dict[str, str]:
    """Return relative path -> hex sha256 of all files below ``folder``, in the order of ``sha256_folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def sha256_of_files(digests: Mapping[str, str]) -> str:
    """Return ``sha256_folder`` of a folder whose ``file_digests`` these are; their order counts."""
    return sha256_json([[name, digest] for name, digest in digests.items()])


@cache
def tool_version() -> str:
    """Return this project's version; ``0+unknown`` where it is run from a tree that was not installed."""
    try:
        return importlib.metadata.version("deepsynth-pipelines")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


@cache
def git_commit() -> str | None:
    """Return the commit of the code: ``DEEPSYNTH_GIT_COMMIT`` (set in images), else git's, else None."""
    if commit := os.environ.get("DEEPSYNTH_GIT_COMMIT"):
        return commit
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


@cache
def software_versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of the packages that shape its results."""
    versions = {"python": platform.python_version(), "deepsynth-pipelines": tool_version()}
    for package in _VERSIONED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if commit := git_commit():
        versions["git_commit"] = commit
    return versions
