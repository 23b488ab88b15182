"""The contact sheet through ``write_preview``: read back by an HTML parser from datasets written by the contract."""

import io
import json
import re
import tarfile
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.prepare.documents.drop_reasons import explain_drop
from components.prepare.output.preview import PAGES_PER_SPLIT, spread_positions, write_preview
from components.shared.artifacts.dataset_manifest import (
    MANIFEST_FILE,
    DatasetManifest,
    Shard,
    Split,
    SplitIndex,
    manifest_digest,
)
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.digests import sha256_file


def picture(width: int = 60, height: int = 40, noise: int | None = None) -> bytes:
    levels = np.full((height, width), 250, np.uint8)
    if noise is not None:
        levels = np.random.default_rng(noise).integers(0, 256, (height, width), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def sample(text: str = "A label.", image: bytes | None = None, **about: Any) -> tuple[bytes, dict[str, Any]]:
    return image or picture(), {"text": text, "source_id": "guide.md", "page": 1, "pages": 2, **about}


def dataset(
    folder: Path, dropped: dict[str, int] | None = None, **splits: list[tuple[bytes, dict[str, Any]]]
) -> DatasetManifest:
    """Write the splits ``train`` and ``eval``, with 10 pages per shard."""
    folder.mkdir(parents=True)
    indexes: dict[Split, SplitIndex] = {}
    for split in ("train", "eval"):
        pages = splits.get(split, [])
        shards = [
            _shard(folder / f"{split}-{start // 10:06d}.tar", split, start, pages[start : start + 10])
            for start in range(0, len(pages), 10)
        ]
        indexes[split] = SplitIndex(shardlist=shards)  # type: ignore[index]
    draft = DatasetManifest(
        digest="",
        splits=indexes,
        documents={"train": 7, "eval": 3},
        dropped=dropped or {},
        source_digest="ab" * 32,
        config={"seed": 5, "source": "<docs>"},
        config_digest="cd" * 32,
        fonts={"DejaVuSans.ttf": "ef" * 32},
        layout_engine="pango 1.50.12",
        tool_version="0.1.0",
    )
    manifest = draft.model_copy(update={"digest": manifest_digest(draft.model_dump(mode="json"))})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json())
    return manifest


def _shard(path: Path, split: str, first: int, pages: list[tuple[bytes, dict[str, Any]]]) -> Shard:
    with tarfile.open(path, "w") as archive:
        for number, (image, about) in enumerate(pages, first):
            for extension, content in (("png", image), ("json", json.dumps(about).encode())):
                member = tarfile.TarInfo(f"{split}-{number:08d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return Shard(url=path.name, nsamples=len(pages), filesize=path.stat().st_size, sha256=sha256_file(path))


class Sheet(HTMLParser):
    """The page's content: texts, in order, and every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append(f"<{tag}>")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(text for text in self.texts if not re.fullmatch("<.*>", text)).split())

    def pages(self) -> list[str]:
        return [str(about["alt"]) for tag, about in self.tags if tag == "img"]

    def row(self, reason: str) -> list[str]:
        start = self.texts.index(reason)
        cells = [text.strip() for text in self.texts[start : start + 25]]
        return [text for text in cells if text and not text.startswith("<")][:4]


def sheet(folder: Path, manifest: DatasetManifest) -> Sheet:
    path = write_preview(folder, manifest)
    assert path == folder / "preview.html"
    return Sheet(path.read_text(encoding="utf-8"))


def test_pages_are_spread_over_the_whole_split_and_all_are_shown_where_they_are_few(tmp_path: Path) -> None:
    train = [sample(f"Label of page {number}.") for number in range(240)]
    shown = sheet(tmp_path / "data", dataset(tmp_path / "data", train=train, eval=train[:3]))
    keys = [f"page train-{number:08d}" for number in range(5, 240, 10)]
    assert shown.pages() == [*keys, "page eval-00000000", "page eval-00000001", "page eval-00000002"]
    assert "train 24 of 240 pages, evenly spaced" in shown.text
    assert "eval all 3 pages" in shown.text
    assert "Label of page 235." in shown.text and "Label of page 236." not in shown.text


@given(st.integers(0, 5000), st.integers(1, 60))
def test_positions_are_distinct_and_equally_far_apart(count: int, most: int) -> None:
    positions = spread_positions(count, most)
    assert len(positions) == min(count, most) and all(0 <= position < count for position in positions)
    gaps = {after - before for before, after in pairwise(positions)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_a_page_is_shown_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    about = {
        "drawn_text": "Drawn\nlines.",
        "original_text": "As it was.",
        "task": "summarize",
        "page": 2,
        "pages": 5,
        "lang": "fa",
        "font": "Vazirmatn.ttf",
        "font_size": 18,
        "resolution": "1024x1024",
        "mode": "base",
        "columns": 2,
        "instruction": "Say it shortly.",
        "augmentation": {"rotation_degrees": -0.84, "jpeg_quality": 71.0, "halo": 3},
    }
    shown = sheet(tmp_path / "data", dataset(tmp_path / "data", train=[sample("خلاصهٔ کوتاه", **about)]))
    for text in ("guide.md", "page 2 of 5", "خلاصهٔ کوتاه", "Drawn lines.", "As it was.", "Say it shortly."):
        assert text in shown.text
    chips = {shown.texts[i + 1] for i, text in enumerate(shown.texts) if text == "<li>"}
    assert chips >= {"summarize", "fa", "Vazirmatn.ttf", "18 px", "1024x1024", "base", "2 columns"}
    assert chips >= {"rotation -0.8°", "JPEG 71", "halo 3"}


def test_texts_have_the_direction_of_their_own_letters(tmp_path: Path) -> None:
    shown = sheet(tmp_path / "data", dataset(tmp_path / "data", train=[sample("سلام")]))
    labels = [about for tag, about in shown.tags if tag == "div" and about.get("class") == "text"]
    assert labels and all(about["dir"] == "auto" for about in labels)


def test_counts_are_of_the_pages_shown_and_by_split(tmp_path: Path) -> None:
    train = [sample(lang=lang, task="ocr") for lang in ("en", "en", "fa")]
    shown = sheet(tmp_path / "data", dataset(tmp_path / "data", train=train, eval=[sample(lang="fa", task="ocr")]))
    assert "counted over the 4 pages shown below" in shown.text
    assert "All of them: task ocr." in shown.text
    start = shown.texts.index("lang")
    table = [text for text in shown.texts[start : start + 60] if not re.fullmatch(r"<.*>|\s*", text)]
    assert table[:9] == ["lang", "train", "eval", "en", "2", "0", "fa", "1", "1"]


def test_what_was_left_out_is_counted_and_explained_by_reason(tmp_path: Path) -> None:
    # 20 pages and 10 documents are kept.
    dropped = {"page_empty": 60, "document_duplicate": 30, "file_unreadable": 2, "page_eaten_by_moths": 20}
    shown = sheet(tmp_path / "data", dataset(tmp_path / "data", dropped, train=[sample()] * 20))
    assert shown.row("page_empty") == ["page_empty", "60", "60.0\xa0%", explain_drop("page_empty")]
    assert shown.row("document_duplicate")[1:3] == ["30", "75.0\xa0%"]
    assert shown.row("file_unreadable")[1:3] == ["2", "–"]
    assert shown.row("page_eaten_by_moths") == ["page_eaten_by_moths", "20", "20.0\xa0%", "Page: eaten by moths."]
    assert re.search(r"80\s*pages left out", shown.text) and re.search(r"30\s*documents left out", shown.text)


def test_that_nothing_was_left_out_is_said(tmp_path: Path) -> None:
    assert "Nothing: every document" in sheet(tmp_path / "d", dataset(tmp_path / "d", train=[sample()])).text


def test_engine_digests_and_config_are_there(tmp_path: Path) -> None:
    manifest = dataset(tmp_path / "data", train=[sample()])
    text = sheet(tmp_path / "data", manifest).text
    for part in (manifest.digest, "ab" * 32, "cd" * 32, "ef" * 32, "pango 1.50.12", '"seed": 5', "DejaVuSans.ttf"):
        assert part in text


def test_foreign_text_is_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    evil = '</div><script>alert(1)</script><img src="http://example.org/x">'
    about = {"source_id": evil, "font": evil, "original_text": evil + "!", "augmentation": {evil: evil}}
    shown = sheet(tmp_path / "data", dataset(tmp_path / "data", {evil: 1}, train=[sample(evil, **about)]))
    assert {tag for tag, _ in shown.tags}.isdisjoint({"script", "link", "iframe"})
    addresses = [about[name] for _, about in shown.tags for name in ("src", "href") if name in about]
    assert len(addresses) == 1 and str(addresses[0]).startswith("data:image/jpeg;base64,")
    assert evil in "".join(shown.texts)


def test_the_file_stays_below_5_mb_with_full_sheets_of_pages_that_do_not_compress(tmp_path: Path) -> None:
    long = "漢" * 30_000
    pages = [
        sample(long, picture(500, 900, noise=seed), drawn_text=long + "1", original_text=long + "2")
        for seed in range(PAGES_PER_SPLIT)
    ]
    path = write_preview(tmp_path / "data", dataset(tmp_path / "data", train=pages, eval=pages))
    assert 2_000_000 < path.stat().st_size < 5_000_000
    assert "Label, 30,000 characters" in path.read_text()


def test_pictures_keep_their_shape_and_grow_no_wider_than_600_pixels(tmp_path: Path) -> None:
    pages = [sample(image=picture(1280, 1920)), sample(image=picture(420, 140))]
    shown = sheet(tmp_path / "data", dataset(tmp_path / "data", train=pages))
    sizes = [(about["width"], about["height"]) for tag, about in shown.tags if tag == "img"]
    assert sizes == [("600", "900"), ("420", "140")]


def test_the_same_dataset_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = [sample(f"Page {number}.", lang=lang) for number, lang in enumerate(["en", "fa", "ru", "hi"] * 10)]
    manifest = dataset(tmp_path / "data", train=pages)
    first = write_preview(tmp_path / "data", manifest).read_bytes()
    assert write_preview(tmp_path / "data", manifest).read_bytes() == first


def test_sets_of_older_versions_empty_splits_and_broken_pictures_are_shown(tmp_path: Path) -> None:
    old = (picture(), {"text": "Old.", "source_id": "a", "page": 1, "pages": 1, "resolution": [0, 0]})
    broken = sample("The label of a broken picture.", image=b"\x89PNG\r\n\x1a\nno picture")
    shown = sheet(tmp_path / "data", dataset(tmp_path / "data", train=[old, broken]))
    assert "The picture cannot be decoded." in shown.text and "The label of a broken picture." in shown.text
    assert shown.pages() == ["page train-00000000"]
    nothing = sheet(tmp_path / "none", dataset(tmp_path / "none", {"page_empty": 4}))
    assert nothing.pages() == [] and nothing.row("page_empty")[1:3] == ["4", "100.0\xa0%"]


ODD_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    text=st.text(st.characters(codec=None), max_size=40),
    about=st.dictionaries(
        st.sampled_from(["lang", "font", "font_size", "resolution", "mode", "columns", "task", "page", "instruction"]),
        ODD_VALUES,
    ),
    augmentation=ODD_VALUES | st.dictionaries(st.text(max_size=5) | st.just("noise_std"), ODD_VALUES, max_size=3),
)
@example(text="half a pair \ud800", about={}, augmentation=None)
def test_no_metadata_stops_a_finished_dataset_from_being_shown(
    tmp_path_factory: pytest.TempPathFactory, text: str, about: dict[str, Any], augmentation: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "data"
    manifest = dataset(folder, train=[sample(text, augmentation=augmentation, **about)])
    assert len(ShardDataset(folder, "train")) == 1
    assert sheet(folder, manifest).pages() == ["page train-00000000"]
