"""What ``deepsynth verify`` reads in a ``lineage.json``."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.export.package.package_layout import LINEAGE_FILE
from components.shared.artifacts.evaluation_report import ReportRow
from components.shared.artifacts.package_files import parsed_json
from components.shared.errors import UserError

SCHEMA_VERSION: Literal[3] = 3


class _Link(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class ShardLink(_Link):
    """One tar file of the dataset."""

    file: str
    sha256: str


class DatasetLink(_Link):
    """The dataset that the evaluation read; the adapter was trained on it if ``on_this_dataset``."""

    digest: str
    source_digest: str | None = None
    manifest_sha256: str
    shards: dict[str, list[ShardLink]]


class BaseLink(_Link):
    """The base model.

    Attributes:
        with_code: whether its Python files count (``trust_remote_code``).
        sha256: over the files that a package takes from its folder; None if only its revision identifies it.
    """

    base_model: str
    revision: str | None
    with_code: bool
    sha256: str | None


class TrainingLink(_Link):
    """The training of the adapter; ``sha256`` is that of its ``training.json``."""

    dataset_digest: str
    on_this_dataset: bool
    config: dict[str, Any]
    seed: int
    steps: int
    sha256: str


class AdapterLink(_Link):
    """The train step's folder.

    Attributes:
        sha256: over ``files``; the digest by which evaluation and gate identify the adapter.
        files: relative path -> sha256, in the order in which ``sha256`` covers them.
        before_packing: values of ``adapter_config.json`` that packing changed.
    """

    kind: Literal["adapter", "model"]
    sha256: str
    files: dict[str, str]
    before_packing: dict[str, Any] | None


class EvaluationLink(_Link):
    """The evaluate step's folder."""

    dataset_digest: str
    rows: list[ReportRow]
    report_sha256: str
    samples_sha256: str


class GateLink(_Link):
    """What the gate decided about this adapter on this evaluation."""

    promoted: bool
    reference: str
    reference_model: dict[str, str | int | None]
    tags: dict[str, str]
    verdict_sha256: str


class MergedLink(_Link):
    """The folder of merged weights beside the package."""

    sha256: str


class ArchiveLink(_Link):
    """The zip itself; only the ``lineage.json`` beside it can name it."""

    file: str
    sha256: str


class Lineage(_Link):
    """The links from shards to package; other keys are for human readers."""

    schema_version: Literal[3]
    name: str
    dataset: DatasetLink
    base_model: BaseLink
    training: TrainingLink
    adapter: AdapterLink
    evaluation: EvaluationLink
    package: dict[str, str]
    gate: GateLink | None
    pipeline_run_id: str | None
    merged: MergedLink | None
    versions: dict[str, str]
    archive: ArchiveLink | None = None


def parsed_lineage(content: bytes, where: str) -> Lineage:
    """Return the lineage in a file's ``content``.

    Raises:
        UserError: it is not JSON, or lacks a link.
    """
    try:
        return Lineage.model_validate(parsed_json(content))
    except (ValidationError, ValueError, RecursionError) as error:
        problem = str(error).splitlines()[0]
        if isinstance(error, ValidationError):
            problem = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors()[:5])
        raise UserError(
            f"{LINEAGE_FILE} is not valid, or was written by another version ({problem})",
            where=where,
            mend="export again, or verify with the version that made the package",
        ) from error
