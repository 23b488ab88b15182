"""The prepare step through ``run`` and its command line: documents in, labelled pages out."""

import hashlib
import json
import os
import signal
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.prepare.config import PrepareConfig
from components.prepare.fonts import covered_code_points, find_fonts, sized_font
from components.prepare.layout import lay_out, needs_shaping
from components.prepare.page_geometry import page_height
from components.prepare.selection_old import CleanDocument, clean_text
from components.prepare.step import run
from components.shared.command_line import step_main
from components.shared.dataset_manifest import DatasetManifest, Split, manifest_digest, read_manifest
from components.shared.errors import UserError
from components.shared.lineage import sha256_file
from components.shared.shard_reader import Sample, ShardDataset

PLAIN_LOOK: dict[str, Any] = {"ink": (0, 0), "paper": (255, 255)}


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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain pages in a font of one width, so that a line's ink tells how many letters it has."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "off")
    folder = tmp_path_factory.mktemp("prepared") / "dataset"
    made(folder, fonts=["DejaVuSansMono.ttf"], max_samples_per_shard=20, instruction="Read this.", **PLAIN_LOOK)
    patch.undo()
    return folder


def test_the_same_input_config_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    texts = prose(90, words=60)
    look = {"fonts": ["DejaVuSans.ttf", "DejaVuSansMono.ttf"], "noise_std": 4.0}
    alone = made(tmp_path / "a" / "data", texts, workers=1, **look)
    shared_out = made(tmp_path / "b" / "data", texts, workers=3, **look)
    assert alone.splits["train"].samples > 64, "fewer are not worth the processes: nothing would be compared"
    # The source's path is part of the config; its folder differs here, and so do the manifests, but not the pages.
    assert shard_digests(tmp_path / "a" / "data") == shard_digests(tmp_path / "b" / "data")
    assert alone.splits == shared_out.splits and alone.source_digest == shared_out.source_digest


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
    assert set(manifest.fonts) == {"DejaVuSansMono.ttf"}
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
    margin = 8
    for page in samples(dataset):
        size = page.metadata["font_size"]
        font = sized_font(find_fonts(["DejaVuSansMono.ttf"])[0].path, size)
        ink = np.asarray(page.image.convert("L")) < 128
        lines, spacing = page.text.split("\n"), round(size * 1.25)
        # A line's letters lie within the spacing from its top; below the last line there is nothing.
        assert not ink[margin + len(lines) * spacing :].any()
        for number, line in enumerate(lines):
            columns = np.flatnonzero(ink[margin + number * spacing : margin + (number + 1) * spacing].any(axis=0))
            assert abs(columns[-1] + 1 - margin - font.getlength(line)) < font.getlength("x"), line
            assert columns[0] - margin < font.getlength("x")


def test_nothing_is_drawn_in_the_margin(dataset: Path) -> None:
    for page in samples(dataset):
        pixels = np.asarray(page.image.convert("L"))
        # Two pixels of the margin of eight belong to letters that hang over, such as j.
        border = np.ones_like(pixels, dtype=bool)
        border[6:-6, 6:-6] = False
        assert (pixels[border] == 255).all()


def test_a_low_page_with_narrow_spacing_clips_no_descender(tmp_path: Path) -> None:
    texts = [("jgpqy " * 30).strip() + f" {number}" for number in range(4)]
    tight = {"line_spacing": 0.8, "margin": 2, "page_height": 68, "lines_per_page": (4, 4), "font_sizes": [20]}
    made(tmp_path / "data", texts, eval_fraction=0.5, **tight, **PLAIN_LOOK)
    for page in samples(tmp_path / "data"):
        pixels = np.asarray(page.image.convert("L"))
        assert (pixels < 128).any() and (pixels[-1] == 255).all()


def test_a_page_too_low_for_its_letters_is_dropped_and_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"page_does_not_fit: \d+"):
        made(tmp_path / "data", page_height=28, font_sizes=[60])
    assert not (tmp_path / "data").exists()


def test_a_glyph_that_one_font_lacks_is_drawn_with_the_next(tmp_path: Path) -> None:
    texts = [f"Ελληνικά γράμματα {number} και λόγια" for number in range(4)] + prose(4, words=10)
    fonts = ["cmr10.ttf", "DejaVuSans.ttf"]
    manifest = made(tmp_path / "data", texts, fonts=fonts)
    drawn_with = {"greek": set(), "latin": set()}
    for page in samples(tmp_path / "data"):
        drawn_with["latin" if page.text.isascii() else "greek"].add(page.metadata["font"])
    assert drawn_with["greek"] == {"DejaVuSans"}
    assert "cmr10" in drawn_with["latin"]
    assert manifest.dropped == {} and set(manifest.fonts) == set(fonts)


def test_what_cannot_be_drawn_right_is_counted_and_in_no_label(tmp_path: Path) -> None:
    rows = [{"text": text} for text in prose(4, words=10)]
    rows += [{"text": "\u4e2d\u6587 \u4e0d\u5728"}, {"text": "\u05e9\u05dc\u05d5\u05dd"}, {"text": "x\u0338y"}]
    rows += [{"text": ""}, {"text": " \n\t"}, {"text": None}, {"text": 17}, {"text": ["a"]}]
    rows += [{"text": prose(1, words=10)[0].upper() + "\n"}, {"text": "\ue000\ufdd0"}]
    manifest = made(tmp_path / "data", rows=rows)
    assert manifest.dropped == {
        "document_duplicate": 1,
        "document_empty": 4,
        "document_not_text": 2,
        "page_glyph_missing": 1,
        "page_needs_shaping": 2,
    }
    assert all(page.text.isascii() for page in samples(tmp_path / "data"))


def test_max_train_pages_picks_some_of_the_same_pages(tmp_path: Path) -> None:
    texts = prose(12)
    # The same file name in both: a page's look follows its document's text and name.
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
        assert np.asarray(page.image.convert("L")).min() < 128


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
    """Return arguments that cannot work, and what the message has to name."""
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
        "narrow page": (["--page_width", "40"], ["page_width leaves no room"]),
        "missing font": (["--fonts", '["Nowhere.ttf"]'], ["'Nowhere.ttf'", "no such font"]),
        "broken font": (["--fonts", '["broken.ttf"]'], ["broken.ttf", "not a readable font"]),
        "folder without fonts": (["--fonts", '["no-fonts"]'], ["no-fonts", ".ttf"]),
        "one document": (["--source", "one.jsonl"], ["one.jsonl", "eval_fraction"]),
        "nothing to read": (["--source", "empty.jsonl"], ["document_empty: 1", "document_not_text: 1"]),
        "nothing to draw": (["--source", "chinese.jsonl"], ["page_glyph_missing", "fonts"]),
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
        "missing font",
        "broken font",
        "folder without fonts",
        "one document",
        "nothing to read",
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
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(".out.partial-*/*.tar")) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert process.poll() is None, "it ended before it could be interrupted"
            os.kill(process.pid, signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


FACES = find_fonts(["DejaVuSans.ttf", "DejaVuSansMono.ttf"])
COVERED = "".join(
    letter
    for letter in map(chr, sorted(covered_code_points(FACES[0].path) & covered_code_points(FACES[1].path)))
    if clean_text(f"x{letter}x") == f"x{letter}x"
    and not needs_shaping(letter)
    and letter != "\u0eb3"  # the Lao vowel hangs over to the left by more than the margin
)
NARROW = PrepareConfig(
    output_dir=Path("unused"), source="unused", page_width=110, fonts=["DejaVuSans.ttf"], lines_per_page=(1, 3)
)


def laid_out(text: str, config: PrepareConfig) -> Any:
    return lay_out(CleanDocument("fuzzed", clean_text(text), "und", "train"), FACES, config)


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=200), st.booleans())
def test_any_text_is_laid_out_within_the_page_or_counted(text: str, reflow: bool) -> None:
    config = NARROW.model_copy(update={"reflow": reflow})
    document = laid_out(text, config)
    total = len(document.pages) + document.dropped.total()
    for page in document.pages:
        assert page.pages == total and 1 <= page.number <= total
        font = sized_font(FACES[page.face].path, page.look.font_size)
        assert 1 <= len(page.lines) <= page.look.max_lines
        assert page_height(len(page.lines), font, config) > 0
        for line in page.lines:
            assert line == line.strip() and line
            assert font.getbbox(line)[2] <= config.page_width - 2 * config.margin
        assert not FACES[page.face].missing(page.text) and not needs_shaping(page.text)


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet=st.sampled_from(COVERED) | st.sampled_from(string.ascii_letters + " \n"), max_size=200))
def test_of_text_that_the_fonts_cover_no_letter_is_lost(text: str) -> None:
    document = laid_out(text, NARROW)
    drawn = "".join("".join(page.lines) for page in document.pages)
    assert "".join(drawn.split()) == "".join(clean_text(text).split())
    assert not document.dropped
