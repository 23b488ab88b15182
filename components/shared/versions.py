"""The versions of the code and packages that made a result."""

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from components.shared.errors import UserError

_COMMIT_DIGITS = 12
_VERSIONED_PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "unsloth", "webdataset", "pillow")


@cache
def tool_version() -> str:
    """Return this project's version; ``0+unknown`` when it runs from a source tree that is not installed."""
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


def code_tag() -> str:
    """Return version and commit of this code as an image's tag: 0.1.0-86349badd219.

    Raises:
        UserError: no commit is known, so two builds could have the same tag.
    """
    commit = git_commit()
    if commit is None:
        raise UserError(
            "the code's commit is not known",
            where="the images' tag",
            mend="set tag in the environment's file, or DEEPSYNTH_GIT_COMMIT",
        )
    return f"{tool_version().replace('+', '-')}-{commit[:_COMMIT_DIGITS]}"


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
