"""What the pages were like that an adapter was trained on, from the metadata of the train split."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.scoring.text_scripts import script_of

_MOST_NAMES = 12


@dataclass(frozen=True)
class Named:
    """How many pages have each name, most first, and how many further names there are."""

    pages: list[tuple[str, int]]
    others: int


@dataclass(frozen=True)
class TrainedPages:
    """Sizes in pixels as ``640 × 480``; lines as ``1 to 4``; names with the number of their pages."""

    smallest: str | None
    largest: str | None
    lines: str
    """of the labels, empty ones not counted"""
    languages: Named
    scripts: Named
    fonts: Named


def trained_pages(dataset_dir: Path, manifest: DatasetManifest) -> TrainedPages | None:
    """Describe the train split's pages; None if its shards are not in ``dataset_dir``."""
    split = manifest.splits.get("train")
    if split is None or not split.samples or not all((dataset_dir / shard.url).is_file() for shard in split.shardlist):
        return None
    pages = ShardDataset(dataset_dir, "train", verify=False)
    languages: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    fonts: Counter[str] = Counter()
    lines: Counter[int] = Counter()
    sizes: set[tuple[int, int]] = set()
    for index in range(len(pages)):
        about = pages.metadata(index)
        label = str(about["text"])
        languages[str(about.get("lang") or "unknown")] += 1
        scripts[script_of(label)] += 1
        fonts[str(about.get("font") or "taken as they are")] += 1
        lines[sum(bool(line.strip()) for line in label.splitlines())] += 1
        match about.get("resolution"):
            case [int(width), int(height)] if width > 0 and height > 0:
                sizes.add((width, height))
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    fewest, most = min(lines), max(lines)
    return TrainedPages(
        smallest=_shown(ordered[0]) if ordered else None,
        largest=_shown(ordered[-1]) if ordered else None,
        lines=str(most) if fewest == most else f"{fewest} to {most}",
        languages=_named(languages),
        scripts=_named(scripts),
        fonts=_named(fonts),
    )


def _named(counted: Counter[str]) -> Named:
    pages = counted.most_common(_MOST_NAMES)
    return Named(pages, len(counted) - len(pages))


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
