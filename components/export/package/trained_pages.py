"""What the pages were like that an adapter was trained on, from the metadata of the train split."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.datasets.shard_reader import ShardDataset

_MOST_NAMES = 12


@dataclass(frozen=True)
class TrainedPages:
    """Sizes in pixels as ``640 × 480``; languages and fonts by name with the number of their pages, most first."""

    smallest: str | None
    largest: str | None
    languages: list[tuple[str, int]]
    fonts: list[tuple[str, int]]
    other_fonts: int
    """fonts that ``fonts`` leaves out"""


def trained_pages(dataset_dir: Path, manifest: DatasetManifest) -> TrainedPages | None:
    """Describe the train split's pages; None if its shards are not in ``dataset_dir``."""
    split = manifest.splits.get("train")
    if split is None or not split.samples or not all((dataset_dir / shard.url).is_file() for shard in split.shardlist):
        return None
    pages = ShardDataset(dataset_dir, "train", verify=False)
    languages: Counter[str] = Counter()
    fonts: Counter[str] = Counter()
    sizes: set[tuple[int, int]] = set()
    for index in range(len(pages)):
        about = pages.metadata(index)
        languages[str(about.get("lang") or "unknown")] += 1
        fonts[str(about.get("font") or "taken as they are")] += 1
        match about.get("resolution"):
            case [int(width), int(height)] if width > 0 and height > 0:
                sizes.add((width, height))
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    named = fonts.most_common(_MOST_NAMES)
    return TrainedPages(
        smallest=_shown(ordered[0]) if ordered else None,
        largest=_shown(ordered[-1]) if ordered else None,
        languages=languages.most_common(),
        fonts=named,
        other_fonts=len(fonts) - len(named),
    )


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
