"""``preview.html``: a contact sheet of pages with their labels and counts of drops; one file without scripts."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from components.prepare.documents.drop_reasons import dropped_kind, explain_drop
from components.prepare.workers.opencv_settings import make_opencv_reproducible
from components.shared.artifacts.dataset_manifest import DatasetManifest
from components.shared.datasets.page_decoding import decode_gray
from components.shared.datasets.shard_reader import Sample, ShardDataset

PREVIEW_FILE = "preview.html"
PAGES_PER_SPLIT = 24

_PICTURE_BYTES = 2_800_000
"""All pictures together, 3.7 MB in base64; the texts of 48 pages stay below 1.1 MB."""
_PICTURE_SIZES = ((600, 75), (600, 45), (450, 45), (320, 40), (200, 30))
"""Maximum width in pixels and JPEG quality: the first that fits the page's share of the bytes, else the last."""
_LONGEST_LABEL, _LONGEST_OTHER_TEXT = 4000, 1500
_LONGEST_LIST = 12
_NOT_STATED = "–"
_COUNTED_FIELDS = ("task", "lang", "font", "font_size", "resolution", "mode", "columns", "instruction")
_EFFECTS = {
    "rotation_degrees": ("rotation", "{:+.1f}°"),
    "skew_degrees": ("skew", "{:+.1f}°"),
    "ink_bleed": ("ink bleed", "{:.2f}"),
    "paper_texture": ("paper", "±{:.1f}"),
    "shadow": ("shadow", "{:.2f}"),
    "blur_sigma": ("blur", "{:.1f} px"),
    "noise_std": ("noise", "±{:.1f}"),
    "jpeg_quality": ("JPEG", "{:.0f}"),
}


@dataclass(frozen=True)
class Picture:
    """A page's picture as a data URL, with its size in pixels."""

    address: str
    width: int
    height: int


@dataclass(frozen=True)
class ShownText:
    """A page's text, truncated if it is long; ``characters`` counts the whole text."""

    name: str
    text: str
    characters: int


@dataclass(frozen=True)
class ShownPage:
    """A page as the contact sheet shows it."""

    key: str
    source_id: str
    place: str
    picture: Picture | None
    label: ShownText
    other_texts: list[ShownText]
    instruction: str | None
    facts: list[str]
    effects: list[str]


@dataclass(frozen=True)
class Drop:
    """A row of the drop table; ``share`` is the share of all of its kind, kept and dropped."""

    reason: str
    kind: str
    count: int
    share: float | None
    explanation: str


@dataclass(frozen=True)
class Tally:
    """How often each value of a field occurs on the shown pages: the value and one count per split."""

    field: str
    rows: list[tuple[str, list[int]]]
    left_out: int


InOrder = Callable[[Callable[[Sample], "ShownPage"], list[Sample]], Iterable["ShownPage"]]
"""``map``, or a parallel version of it."""


def write_preview(folder: Path, manifest: DatasetManifest, in_order: InOrder = map) -> Path:
    """Write ``preview.html`` into an otherwise complete dataset folder and return its path.

    It shows at most ``PAGES_PER_SPLIT`` evenly spaced pages of each split. The same dataset gives the same bytes.

    Raises:
        UserError: a shard is missing or corrupt.
    """
    samples = {
        split: _spread_samples(ShardDataset(folder, split, verify=False), PAGES_PER_SPLIT)
        for split, index in manifest.splits.items()
        if index.samples
    }
    shown = sum(len(of_split) for of_split in samples.values())
    show = partial(_shown, picture_bytes=_PICTURE_BYTES // max(shown, 1))
    drops = dropped_table(manifest)
    tallies = _tallies(list(samples.values()))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(percent=_percent, number="{:,}".format)
    text = environment.get_template("preview.html.jinja").render(
        manifest=manifest,
        config=json.dumps(manifest.config, indent=1, ensure_ascii=False, sort_keys=True),
        drops=drops,
        left_out=_left_out(drops),
        shown=shown,
        same_on_all={tally.field: tally.rows[0][0] for tally in tallies if len(tally.rows) == 1},
        tallies=[tally for tally in tallies if len(tally.rows) > 1],
        effects=_effect_ranges([sample for of_split in samples.values() for sample in of_split]),
        pages={split: list(in_order(show, of_split)) for split, of_split in samples.items()},
    )
    path = folder / PREVIEW_FILE
    # A lone surrogate in a source's metadata cannot be encoded; it must not fail a finished dataset.
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


def spread_positions(count: int, most: int) -> list[int]:
    """Return at most ``most`` of ``count`` positions, in order and evenly spaced: the middles of equal parts.

    >>> spread_positions(3, 24), spread_positions(100, 4)
    ([0, 1, 2], [12, 37, 62, 87])
    """
    if count <= most:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * most) for part in range(most)]


def dropped_table(manifest: DatasetManifest) -> list[Drop]:
    """Return the drops, sorted by falling count."""
    totals = Counter({"documents": sum(manifest.documents.values())})
    totals["pages"] = sum(index.samples for index in manifest.splits.values())
    for reason, count in manifest.dropped.items():
        totals[dropped_kind(reason)] += count
    drops = []
    for reason, count in sorted(manifest.dropped.items(), key=lambda item: (-item[1], item[0])):
        kind = dropped_kind(reason)
        share = count / totals[kind] if kind in ("documents", "pages") and totals[kind] else None
        drops.append(Drop(reason, kind, count, share, explain_drop(reason)))
    return drops


def _left_out(drops: Sequence[Drop]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for drop in drops:
        sums[drop.kind or "others"] = sums.get(drop.kind or "others", 0) + drop.count
    return dict(sorted(sums.items()))


def _spread_samples(dataset: ShardDataset, most: int) -> list[Sample]:
    return [dataset[position] for position in spread_positions(len(dataset), most)]


def _shown(sample: Sample, picture_bytes: int) -> ShownPage:
    about = sample.metadata
    others: list[ShownText] = []
    seen = {sample.text}
    for field, name in (("drawn_text", "Drawn on the page"), ("original_text", "As the source has it")):
        text = about.get(field)
        if isinstance(text, str) and text not in seen:
            others.append(_cut(name, text, _LONGEST_OTHER_TEXT))
            seen.add(text)
    return ShownPage(
        key=sample.key,
        source_id=str(about.get("source_id", "?")),
        place=f"page {about.get('page', '?')} of {about.get('pages', '?')}",
        picture=_picture(sample.image_bytes, picture_bytes),
        label=_cut("Label", sample.text, _LONGEST_LABEL),
        other_texts=others,
        instruction=sample.instruction,
        facts=_facts(about),
        effects=[_effect(name, value) for name, value in _augmentation(about).items()],
    )


def _cut(name: str, text: str, longest: int) -> ShownText:
    return ShownText(name, text if len(text) <= longest else text[:longest] + " …", len(text))


def _facts(about: Mapping[str, Any]) -> list[str]:
    """Return a page's known properties as short phrases."""
    phrases = {
        "task": "{}",
        "lang": "{}",
        "font": "{}",
        "font_size": "{} px",
        "resolution": "{}",
        "mode": "{}",
        "columns": "{} columns",
        "letter_height": "letters of {} px",
    }
    known = {name: about.get(name) for name in phrases}
    if known["columns"] == 1:
        known["columns"] = None
    return [phrases[name].format(value) for name, value in known.items() if value not in (None, "")]


def _augmentation(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the effects in the order in which they are applied."""
    applied = about.get("augmentation")
    if not isinstance(applied, dict):
        return {}
    order = [*_EFFECTS, *sorted(applied.keys() - _EFFECTS.keys())]
    return {name: applied[name] for name in order if name in applied}


def _effect(name: str, value: Any) -> str:
    words, form = _EFFECTS.get(name, (name.replace("_", " "), "{}"))
    return f"{words} {form.format(value)}" if isinstance(value, int | float) else f"{words} {value}"


def _tallies(splits: Sequence[Sequence[Sample]]) -> list[Tally]:
    tallies = []
    for field in _COUNTED_FIELDS:
        by_split = [
            Counter(_NOT_STATED if (value := sample.metadata.get(field)) is None else str(value) for sample in part)
            for part in splits
        ]
        total = sum(by_split, Counter())
        if set(total) == {_NOT_STATED}:
            continue
        values = sorted(total, key=lambda value: (-total[value], value))
        rows = [(value, [counts[value] for counts in by_split]) for value in values[:_LONGEST_LIST]]
        tallies.append(Tally(field.replace("_", " "), rows, len(values) - len(rows)))
    return tallies


def _effect_ranges(samples: Sequence[Sample]) -> list[tuple[str, int, str]]:
    """Return each effect's name, its number of pages, and its range."""
    values: dict[str, list[float]] = {name: [] for name in _EFFECTS}
    for sample in samples:
        for name, value in _augmentation(sample.metadata).items():
            if isinstance(value, int | float):
                values.setdefault(name, []).append(value)
    ranges = []
    for name, of_effect in values.items():
        if not of_effect:
            continue
        words, form = _EFFECTS.get(name, (name.replace("_", " "), "{}"))
        ranges.append((words, len(of_effect), f"{form.format(min(of_effect))} to {form.format(max(of_effect))}"))
    return ranges


def _picture(image_bytes: bytes, most_bytes: int) -> Picture | None:
    """Return the page, scaled down if it is wide or takes too many bytes; None if it is not a picture."""
    try:
        whole = decode_gray(image_bytes)
    except (OSError, Image.DecompressionBombError):
        return None
    make_opencv_reproducible()
    height, width = whole.shape
    page: cv2.typing.MatLike = whole
    size = (width, height)
    for most_width, quality in _PICTURE_SIZES:
        scale = min(1.0, most_width / width, 4 * most_width / height)
        smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
        if smaller != size:
            page, size = cv2.resize(whole, smaller, interpolation=cv2.INTER_AREA), smaller
        _, jpeg = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])
        if len(jpeg) <= most_bytes:
            break
    return Picture("data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii"), *size)


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share:.{2 if 0 < share < 0.01 else 1}f}\N{NO-BREAK SPACE}%"
