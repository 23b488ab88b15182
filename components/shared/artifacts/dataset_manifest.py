"""The dataset's ``manifest.json``: the content of every shard, and a digest over all of it.

The ``shardlist`` entries have the fields of a wids index (``url``, ``nsamples``, ``filesize``), so readers of that
format find every sample.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.shared.digests import sha256_file, sha256_json
from components.shared.errors import UserError

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1

Split = Literal["train", "eval"]


class Shard(BaseModel):
    """One tar file of the dataset; ``url`` is relative to the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    nsamples: int
    filesize: int
    sha256: str


class SplitIndex(BaseModel):
    """The shards of one split, in order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wids_version: Literal[1] = 1
    shardlist: list[Shard]

    @property
    def samples(self) -> int:
        return sum(shard.nsamples for shard in self.shardlist)


class LetterHeights(BaseModel):
    """How high the letters are on the pages of PDFs and scans: pixels, estimated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pages: int
    """Pages that were measured; those without enough text to tell are not."""
    median: float
    min_letter_height: float
    """The height below which a page's letters count as too small for the model."""
    small_pages: int
    """Pages whose letters are lower than that; they are in the shards."""
    small_names: list[str]
    """The first ten of them, with their letters' height."""


class DatasetManifest(BaseModel):
    """The contract between prepare and every later step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    digest: str
    """sha256 over all fields below except tool_version."""
    splits: dict[Split, SplitIndex]
    documents: dict[Split, int]
    dropped: dict[str, int]
    """Reason -> count of files (``file_*``), documents, paragraphs or pages (``page_*``) that are not in the shards."""
    dropped_names: dict[str, list[str]] = {}
    """Reason -> names of the first ten of them."""
    unread_kinds: dict[str, int] = {}
    """Suffix -> count of the source's files of a kind that is not read."""
    letter_heights: LetterHeights | None = None
    """None if no page was taken as it is from a PDF or a scan."""
    source_digest: str
    config: dict[str, Any]
    """The settings that determine the shards' bytes; without folders and worker counts."""
    config_digest: str
    fonts: dict[str, str]
    """Font name -> sha256 of every font that pages may be drawn with."""
    layout_engine: str
    tool_version: str

    def sources_name(self) -> str:
        """Return the sources, the holdout last, as one line for MLflow."""
        further = [*self.config.get("more_sources", []), self.config.get("holdout")]
        return ", ".join(str(one.get("source")) for one in (self.config, *further) if one)


def manifest_digest(content: dict[str, Any]) -> str:
    """Return the digest over a manifest's content without ``digest`` and ``tool_version``."""
    return sha256_json({key: value for key, value in content.items() if key not in ("digest", "tool_version")})


def read_manifest(folder: Path) -> DatasetManifest:
    """Read and check ``manifest.json``.

    Raises:
        UserError: the manifest is missing or invalid, or its digest does not match its content.
    """
    path = folder / MANIFEST_FILE
    mend = "point dataset_dir at a folder that the prepare step made"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = DatasetManifest.model_validate(content)
    except OSError as error:
        raise UserError(f"no dataset manifest ({error.strerror})", where=str(path), mend=mend) from error
    except (ValueError, ValidationError, RecursionError) as error:
        raise UserError("not a valid dataset manifest", where=str(path), mend=mend) from error
    if manifest_digest(content) != manifest.digest:
        raise UserError("the manifest was changed after it was made", where=str(path), mend="prepare the data again")
    return manifest


def verify_shards(folder: Path, manifest: DatasetManifest, split: Split) -> None:
    """Compare every shard of ``split`` with the manifest's sha256.

    Raises:
        UserError: names the first missing or different shard.
    """
    for shard in manifest.splits[split].shardlist:
        path = folder / shard.url
        if not path.is_file():
            raise UserError("the shard is missing", where=str(path), mend="prepare the data again")
        if sha256_file(path) != shard.sha256:
            raise UserError(
                "the shard is corrupt (its sha256 is not the manifest's)",
                where=str(path),
                mend="prepare the data again",
            )
