"""Builds the manifest of finished shards."""

from collections.abc import Sequence

from components.prepare.config import PrepareConfig
from components.prepare.documents.drop_table import DropTable
from components.prepare.drawing.drawing_log import DrawingRecord
from components.prepare.typesetting.fonts import FontFace
from components.shared.artifacts.dataset_manifest import (
    DatasetManifest,
    LetterHeights,
    Split,
    SplitIndex,
    manifest_digest,
)
from components.shared.digests import sha256_file, sha256_json
from components.shared.versions import tool_version


def build_manifest(
    config: PrepareConfig,
    source_digest: str,
    record: DrawingRecord,
    splits: dict[Split, SplitIndex],
    documents: dict[Split, int],
    dropped: DropTable,
    letters: LetterHeights | None,
) -> DatasetManifest:
    """Return the manifest of ``splits``, with a digest of its own content.

    Args:
        documents: split -> documents that have a page in the shards.
        dropped: everything that is not in the shards.
        letters: of the pages of PDFs and scans.
    """
    settings = config.data_settings()
    draft = DatasetManifest(
        digest="",
        splits=splits,
        documents=documents,
        dropped=dict(sorted((+dropped.counts).items())),
        dropped_names=dict(sorted(dropped.names.items())),
        unread_kinds=dict(sorted(dropped.kinds.items())),
        letter_heights=letters,
        source_digest=source_digest,
        config=settings,
        config_digest=sha256_json([settings, record.fonts, record.layout_engine]),
        fonts=record.fonts,
        layout_engine=record.layout_engine,
        tool_version=tool_version(),
    )
    return draft.model_copy(update={"digest": manifest_digest(draft.model_dump(mode="json"))})


def font_digests(faces: Sequence[FontFace]) -> dict[str, str]:
    """Return face name -> sha256 of its font file."""
    return {face.name: sha256_file(face.path) for face in faces}


def page_counts(manifest: DatasetManifest) -> dict[str, float]:
    """Return the metrics to track: pages and documents per split, pages with small letters, drops by reason."""
    letters = manifest.letter_heights
    return {
        **{f"{split}_pages": index.samples for split, index in manifest.splits.items()},
        **{f"{split}_documents": count for split, count in manifest.documents.items()},
        **({"small_letters_pages": letters.small_pages} if letters else {}),
        **{f"dropped_{reason}": count for reason, count in manifest.dropped.items()},
    }
