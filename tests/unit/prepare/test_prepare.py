"""The prepare step through ``run`` and its command line: documents in, labelled pages out."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageFont

from components.prepare.config import PrepareConfig
from components.prepare.step import run
from components.prepare.typesetting.fonts import find_fonts
from components.prepare.typesetting.pango_library import pango_library
from components.shared.artifacts.dataset_manifest import DatasetManifest, Split, manifest_digest, read_manifest
from components.shared.datasets.shard_reader import Sample, ShardDataset
from components.shared.digests import sha256_file
from components.shared.errors import UserError
from components.shared.programs.step_command import step_main

PLAIN_LOOK: dict[str, Any] = {"ink": (0, 0), "paper": (255, 255)}
MARGIN = 8


def pango_is_installed() -> bool:
    try:
        pango_library()
    except OSError:
        return False
    return True


ENGINES = [
    pytest.param("pango", marks=pytest.mark.skipif(not pango_is_installed(), reason="Pango is not installed")),
    "pillow",
]


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prose(documents: int, words: int = 40) -> list[str]:
    """Return texts of distinct words in two paragraphs."""
    names = ["river", "stone", "lamp", "Winter", "quay,", "(bread)", "jog", "wall's"]
    return [
        " ".join(f"{names[(number + place) % len(names)]}{place}" for place in range(words // 2))
        + "\n\n"
        + " ".join(f"{names[(number * place) % len(names)]}-{number}" for place in range(words // 2))
        for number in range(documents)
    ]


def made(
    folder: Path, texts: list[str] | None = None, rows: list[Any] | None = None, **changes: Any
) -> DatasetManifest:
    folder.parent.mkdir(exist_ok=True)
    source = write_rows(folder.with_suffix(".jsonl"), rows or [{"text": text} for text in texts or prose(12)])
    values = {"workers": 1, "eval_fraction": 0.25, **changes}
    return run(PrepareConfig(output_dir=folder, source=str(source), **values))


def samples(folder: Path, *splits: Split) -> list[Sample]:
    datasets = [ShardDataset(folder, split) for split in splits or ("train", "eval")]
    return [dataset[index] for dataset in datasets for index in range(len(dataset))]


def shard_digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.tar"))}


@pytest.fixture(scope="module", params=ENGINES)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pages in a monospaced font, so that the width of a line's ink gives its number of letters."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "off")
    folder = tmp_path_factory.mktemp("prepared") / "dataset"
    look = {"fonts": ["DejaVuSansMono.ttf"], "text_engine": request.param, **PLAIN_LOOK}
    made(folder, max_samples_per_shard=20, instruction="Read this.", **look)
    patch.undo()
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_input_config_and_seed_give_the_same_bytes(tmp_path: Path, engine: str) -> None:
    texts = prose(90, words=60)
    texts[40] += "\n\nno font has this: \u1e94\u4e2d\u6587"
    look = {
        "fonts": ["DejaVuSans.ttf", "DejaVuSansMono.ttf"],
        "text_engine": engine,
        "augmentation": {"noise_std": (0, 4), "rotation_degrees": (-2, 2), "share": 0.5},
        "max_train_pages": 100,
    }
    alone = made(tmp_path / "a" / "data", texts, workers=1, **look)
    shared_out = made(tmp_path / "b" / "data", texts, workers=3, **look)
    assert alone.splits["train"].samples == 100 and alone.dropped["page_over_max_train_pages"] > 50
    assert alone.dropped["paragraph_glyph_missing"] == 1
    # The source's path is part of the config; its folder differs here, and so do the manifests, but not the pages.
    assert shard_digests(tmp_path / "a" / "data") == shard_digests(tmp_path / "b" / "data")
    assert alone.splits == shared_out.splits and alone.source_digest == shared_out.source_digest
    assert alone.dropped == shared_out.dropped and alone.documents == shared_out.documents


def test_the_manifest_s_digest_follows_the_config_and_not_the_workers(tmp_path: Path) -> None:
    digests = {}
    for name, changes in {"one": {"workers": 1}, "three": {"workers": 3}, "seed": {"seed": 1}}.items():
        source = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in prose(8)])
        config = PrepareConfig(output_dir=tmp_path / name, source=str(source), **changes)
        digests[name] = run(config).digest
    assert digests["one"] == digests["three"] != digests["seed"]
    assert shard_digests(tmp_path / "one") == shard_digests(tmp_path / "three") != shard_digests(tmp_path / "seed")


def test_the_manifest_tells_the_truth_of_the_shards(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    content = json.loads((dataset / "manifest.json").read_text())
    assert manifest.digest == manifest_digest(content)
    assert sorted(shard_digests(dataset)) == sorted(
        shard.url for index in manifest.splits.values() for shard in index.shardlist
    )
    assert len(manifest.splits["train"].shardlist) > 1, "max_samples_per_shard was set to see this"
    for split, index in manifest.splits.items():
        assert all(shard.nsamples <= 20 for shard in index.shardlist)
        assert index.samples == len(ShardDataset(dataset, split))
        for shard in index.shardlist:
            path = dataset / shard.url
            assert (path.stat().st_size, sha256_file(path)) == (shard.filesize, shard.sha256)
    assert set(manifest.fonts) == {"DejaVuSansMono"}
    assert (dataset / "preview.html").stat().st_size > 1000


def test_every_page_carries_the_contract_s_fields(dataset: Path) -> None:
    page = samples(dataset, "eval")[0]
    assert set(page.metadata) >= {"text", "task", "source_id", "page", "pages", "lang", "font", "resolution"}
    assert page.metadata["sha256"] == hashlib.sha256(page.image_bytes).hexdigest()
    assert page.metadata["resolution"] == f"{page.image.width}x{page.image.height}"
    assert page.instruction == "Read this."


def test_train_and_eval_share_no_document(dataset: Path) -> None:
    sides = {split: {page.metadata["source_id"] for page in samples(dataset, split)} for split in ("train", "eval")}
    assert sides["train"] and sides["eval"] and not sides["train"] & sides["eval"]


def test_a_document_s_side_does_not_hang_on_the_others(tmp_path: Path) -> None:
    texts = prose(30)
    made(tmp_path / "all", texts)
    made(tmp_path / "some", texts[:20])
    sides = {
        name: {
            page.metadata["source_id"].split(":")[1]: split
            for split in ("train", "eval")
            for page in samples(folder, split)
        }
        for name, folder in (("all", tmp_path / "all"), ("some", tmp_path / "some"))
    }
    assert len(set(sides["some"].values())) == 2
    assert sides["some"].items() <= sides["all"].items()


@pytest.mark.parametrize("reflow", [True, False])
def test_the_labels_are_the_document_in_order(tmp_path: Path, reflow: bool) -> None:
    texts = prose(6, words=120)
    made(tmp_path / "data", texts, reflow=reflow)
    pages = sorted(samples(tmp_path / "data"), key=lambda page: page.metadata["page"])
    for row, text in enumerate(texts, start=1):
        own = [page for page in pages if page.metadata["source_id"].endswith(f":{row}")]
        assert [page.metadata["page"] for page in own] == list(range(1, own[0].metadata["pages"] + 1))
        assert " ".join("\n".join(page.text for page in own).split()) == " ".join(text.split())


def test_what_is_drawn_is_what_the_label_says(dataset: Path) -> None:
    path = find_fonts(["DejaVuSansMono.ttf"])[0].path
    for page in samples(dataset):
        size = page.metadata["font_size"]
        advance = ImageFont.truetype(str(path), 1000).getlength("x") * size / 1000
        ink = page.gray < 128
        lines, spacing = page.text.split("\n"), size * 1.25
        # A line's letters are at most one line spacing below its top; there is no ink below the last line.
        assert not ink[round(MARGIN + len(lines) * spacing) + 1 :].any()
        for number, line in enumerate(lines):
            top = round(MARGIN + number * spacing)
            columns = np.flatnonzero(ink[top + 2 : round(top + spacing) - 2].any(axis=0))
            assert abs(columns[-1] + 1 - MARGIN - len(line) * advance) < advance, line
            assert columns[0] - MARGIN < advance


def test_nothing_is_drawn_in_the_margin(dataset: Path) -> None:
    for page in samples(dataset):
        # Letters that extend into the margin, such as j, may use two of its eight pixels.
        border = np.ones_like(page.gray, dtype=bool)
        border[6:-6, 6:-6] = False
        assert (page.gray[border] == 255).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_low_page_with_narrow_spacing_clips_no_descender(tmp_path: Path, engine: str) -> None:
    texts = [("jgpqy " * 30).strip() + f" {number}" for number in range(4)]
    tight = {"line_spacing": (0.8, 0.8), "margin": (2, 2), "page_height": 68, "font_sizes": [20]}
    made(tmp_path / "data", texts, eval_fraction=0.5, text_engine=engine, near_duplicate_threshold=None, **tight)
    for page in samples(tmp_path / "data"):
        assert (page.gray < 128).any() and (page.gray[-1] > 200).all()


def test_a_page_too_low_for_its_letters_is_dropped_and_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"paragraph_does_not_fit: \d+"):
        made(
            tmp_path / "data", page_height=80, font_sizes=[30], margin=(8, 8), line_spacing=(4, 4), fonts=["cmex10.ttf"]
        )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_glyph_that_one_font_lacks_is_drawn_with_the_next(tmp_path: Path, engine: str) -> None:
    texts = [f"Ελληνικά γράμματα {number} και λόγια" for number in range(4)] + prose(4, words=10)
    fonts = ["cmr10.ttf", "DejaVuSans.ttf"]
    manifest = made(tmp_path / "data", texts, fonts=fonts, text_engine=engine, near_duplicate_threshold=None)
    drawn_with: dict[str, set[str]] = {"greek": set(), "latin": set()}
    for page in samples(tmp_path / "data"):
        used = {page.metadata["font"], *page.metadata["fallback_fonts"]}
        drawn_with["latin" if page.text.isascii() else "greek"] |= used
    assert "DejaVuSans" in drawn_with["greek"]
    assert "cmr10" in drawn_with["latin"]
    assert manifest.dropped == {} and set(manifest.fonts) == {"cmr10", "DejaVuSans"}


def test_what_cannot_be_drawn_is_counted_and_in_no_label(tmp_path: Path) -> None:
    rows = [{"text": text} for text in prose(40, words=10)]
    rows += [{"text": "Seen\n\n\u4e2d\u6587 \u4e0d\u5728\n\nSeen too"}]
    rows += [{"text": ""}, {"text": " \n\t"}, {"text": None}, {"text": 17}, {"text": ["a"]}]
    rows += [{"text": prose(1, words=10)[0].upper() + "\n"}, {"text": "\ue000\ufdd0\u200b\u202e"}]
    rows += [{"text": "long " * 30}]
    manifest = made(tmp_path / "data", rows=rows, max_document_characters=140)
    assert manifest.dropped == {
        "document_duplicate": 1,
        "document_empty": 4,
        "document_not_text": 2,
        "document_too_long": 1,
        "paragraph_glyph_missing": 1,
    }
    pages = samples(tmp_path / "data")
    assert all(page.text.isascii() for page in pages)
    (mended,) = [page for page in pages if "Seen" in page.text and "too" not in page.text]
    assert mended.metadata["pages"] == 2, "the paragraphs before and behind it are drawn"


def test_pillow_refuses_what_it_would_draw_wrong(tmp_path: Path) -> None:
    rows = [{"text": text} for text in prose(40, words=10)] + [{"text": "\u0e2a\u0e27\u0e31\u0e2a"}]
    manifest = made(tmp_path / "data", rows=rows, text_engine="pillow")
    assert manifest.dropped == {"paragraph_needs_shaping": 1}


def test_max_train_pages_picks_some_of_the_same_pages(tmp_path: Path) -> None:
    texts = prose(12)
    everything = made(tmp_path / "all" / "data", texts)
    limited = made(tmp_path / "some" / "data", texts, max_train_pages=7, max_eval_pages=2)
    assert limited.splits["train"].samples == 7 and limited.splits["eval"].samples == 2
    assert limited.dropped["page_over_max_train_pages"] == everything.splits["train"].samples - 7
    chosen, offered = samples(tmp_path / "some" / "data", "train"), samples(tmp_path / "all" / "data", "train")
    assert {page.text for page in chosen} <= {page.text for page in offered}
    assert len({page.metadata["source_id"] for page in chosen}) > 2, "picked evenly, not from the first document"


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_pages_are_pictures_of_the_asked_format(tmp_path: Path, image_format: str) -> None:
    made(tmp_path / "data", prose(3, words=8), image_format=image_format, page_height=112)
    for page in samples(tmp_path / "data"):
        assert page.image.size == (420, 112)
        assert page.gray.min() < 128


def test_the_command_makes_what_run_makes(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in prose(8)])
    settings_file = tmp_path / "prepare.yaml"
    settings_file.write_text(f"source: {source}\nfont_sizes: [20]\nworkers: 1\nseed: 5\n")
    command = [sys.executable, "-m", "components.prepare", "--config", str(settings_file)]
    command += ["--output_dir", str(tmp_path / "made"), "--seed", "6"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    expected = run(PrepareConfig(output_dir=tmp_path / "expected", source=str(source), font_sizes=[20], seed=6))
    assert read_manifest(tmp_path / "made").digest == expected.digest, "a flag wins over the file"


def bad_arguments(kind: str, folder: Path) -> tuple[list[str], list[str]]:
    """Return invalid arguments, and what the error message must name."""
    (folder / "config.yaml").write_text({"unknown key": "font_size: [20]", "no mapping": "- 1"}.get(kind, "seed: 1"))
    (folder / "broken.ttf").write_bytes(b"no font" * 100)
    (folder / "no-fonts").mkdir()
    write_rows(folder / "one.jsonl", [{"text": "alone"}])
    write_rows(folder / "empty.jsonl", [{"text": " "}, {"text": 3}])
    write_rows(folder / "chinese.jsonl", [{"text": f"\u4e2d\u6587 {number}"} for number in range(4)])
    return {
        "unknown key": (["--config", "config.yaml"], ["config.yaml", "'font_size'", "did you mean 'font_sizes'?"]),
        "no mapping": (["--config", "config.yaml"], ["config.yaml", "mapping"]),
        "no config file": (["--config", "none.yaml"], ["none.yaml"]),
        "wrong value": (["--eval_fraction", "1.5"], ["'eval_fraction'", "1.5"]),
        "range": (["--ink", "[9, 3]"], ["ink: the first number"]),
        "narrow page": (["--page_width", "40"], ["a page of 40x", "leaves no room"]),
        "unknown mode": (["--resolutions", '["bass"]'], ["bass", "base"]),
        "summary without a column": (["--task", "summarize", "--page_height", "400"], ["target_column"]),
        "missing font": (["--fonts", '["Nowhere.ttf"]'], ["'Nowhere.ttf'", "no such font"]),
        "broken font": (["--fonts", '["broken.ttf"]'], ["broken.ttf", "not a"]),
        "folder without fonts": (["--fonts", '["no-fonts"]'], ["no-fonts", ".ttf"]),
        "one document": (["--source", "one.jsonl"], ["one.jsonl", "eval_fraction"]),
        "nothing to read": (["--source", "empty.jsonl"], ["document_empty: 1", "document_not_text: 1"]),
        "script without a font": (["--source", "chinese.jsonl"], ["no font covers Han (4 of 4 documents", "fonts"]),
        "nothing to draw": (
            ["--source", "chinese.jsonl", "--max_uncovered_share", "1"],
            ["paragraph_glyph_missing: 4", "fonts"],
        ),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "unknown key",
        "no mapping",
        "no config file",
        "wrong value",
        "range",
        "narrow page",
        "unknown mode",
        "summary without a column",
        "missing font",
        "broken font",
        "folder without fonts",
        "one document",
        "nothing to read",
        "script without a font",
        "nothing to draw",
    ],
)
def test_a_bad_setting_is_one_line_and_leaves_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, named = bad_arguments(kind, tmp_path)
    before = sorted(tmp_path.iterdir())
    defaults = ["--output_dir", "out", "--workers", "1"]
    assert step_main("prepare", PrepareConfig, run, [*defaults, *arguments]) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.endswith(line + "\n") and "Traceback" not in said
    for part in named:
        assert part in line
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_folder_in_use_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    command = [sys.executable, "-m", "components.prepare", "--output_dir", str(tmp_path / "out")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1
    assert "not empty" in answer.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "components.prepare", "--output_dir", "out", "--workers", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 300
            while not list(tmp_path.glob(".out.partial-*/.work-*/.pages*/pages-*.bin")) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be interrupted"
            os.kill(process.pid, signal.SIGINT)
            said = process.communicate(timeout=300)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
