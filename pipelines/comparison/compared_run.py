"""One finished run as the comparison sees it, wherever its files were."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.errors import UserError

DOCUMENTS = {
    "prepare": "manifest.json",
    "train": "training.json",
    "evaluate": "report.json",
    "gate": "verdict.json",
    "benchmark": "benchmark.json",
}
"""A step -> the file with its figures."""
SAMPLES = "samples.parquet"
SCHEMA_VERSIONS = {"manifest.json": 1, "report.json": 1, "verdict.json": 1, "benchmark.json": 3}


@dataclass(frozen=True)
class ComparedRun:
    """A finished run.

    Attributes:
        name: its id, unique among the compared ones.
        where: the folder, or the MLflow run, it was read from.
        finished: when it ended, in UTC, as text.
        config: dotted key -> value.
        documents: a step -> the content of its file; steps that left none are not there.
        seconds: a step -> its wall time.
        samples: the evaluation's ``samples.parquet``; None where it could not be had.
        notes: what is missing, and why.
    """

    name: str
    where: str
    finished: str
    config: dict[str, Any]
    documents: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    samples: Path | None
    notes: list[str] = field(default_factory=list)

    def figures(self, model: str) -> dict[str, Any] | None:
        """Return the evaluation's row of ``model``, e.g. ``adapter``; None where it has none."""
        rows = self.documents.get("evaluate", {}).get("rows", [])
        return next((row for row in rows if row["name"] == model), None)

    def versions(self) -> dict[str, str]:
        """Return the versions of the software that made the results; the training's where steps differ."""
        found: dict[str, str] = {}
        for step in ("benchmark", "evaluate", "train"):
            found |= self.documents.get(step, {}).get("versions", {})
        return found


def read_document(path: Path, where: str) -> dict[str, Any]:
    """Read a step's file.

    Raises:
        UserError: it is not one, or was written in another schema than this version reads.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read ({error})", where=where) from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} is not a step's file", where=where)
    check_schema(path.name, content, SCHEMA_VERSIONS.get(path.name), where)
    return content


def check_schema(name: str, content: Mapping[str, Any], known: int | None, where: str) -> None:
    """Compare a file's schema version with the one that this version of the product reads.

    Raises:
        UserError: they differ.
    """
    found = content.get("schema_version")
    if known is not None and found != known:
        raise UserError(
            f"{name} has the schema version {found}, this version of deepsynth reads {known}",
            where=where,
            mend="compare with the version that made the run, or run it again",
        )


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys.

    >>> flattened({"seed": 0, "train": {"r": 8}})
    {'seed': 0, 'train.r': 8}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
