"""The manifest of a finished set of shards."""

from collections import Counter

from components.prepare.config import PrepareConfig
from components.prepare.fonts import FontFace
from components.prepare.layout import ENGINE
from components.prepare.selection_old import CleanDocument
from components.prepare.sources.opening import source_digest
from components.shared.dataset_manifest import DatasetManifest, Split, SplitIndex, manifest_digest
from components.shared.lineage import sha256_file, sha256_json, tool_version


def build_manifest(
    config: PrepareConfig,
    faces: list[FontFace],
    splits: dict[Split, SplitIndex],
    documents: list[CleanDocument],
    dropped: Counter[str],
) -> DatasetManifest:
    """Return the manifest over ``splits``, with the digest over its own content."""
    settings = config.data_settings()
    fonts = {face.path.name: sha256_file(face.path) for face in faces}
    sides = Counter(document.split for document in documents)
    draft = DatasetManifest(
        digest="",
        splits=splits,
        documents={split: sides[split] for split in splits},
        dropped=dict(sorted(dropped.items())),
        source_digest=source_digest(config),
        config=settings,
        config_digest=sha256_json([settings, fonts]),
        fonts=fonts,
        layout_engine=ENGINE,
        tool_version=tool_version(),
    )
    return draft.model_copy(update={"digest": manifest_digest(draft.model_dump(mode="json"))})


def page_counts(manifest: DatasetManifest) -> dict[str, float]:
    """Return the numbers worth tracking: pages and documents per split, drops by reason."""
    return {
        **{f"{split}_pages": index.samples for split, index in manifest.splits.items()},
        **{f"{split}_documents": count for split, count in manifest.documents.items()},
        **{f"dropped_{reason}": count for reason, count in manifest.dropped.items()},
    }
