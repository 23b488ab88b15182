"""Each hostile input of the table comes to what its row says; docs/hostile-inputs.md is the table."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from components.prepare.documents.document import PagePicture, Unreadable
from components.prepare.rendering.page_pictures import PageError
from components.prepare.rendering.picture_loader import PictureLoader
from components.prepare.selection.candidate import SelectionSettings, examine
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents
from components.serve.adapters.sources import ModelFiles, fetched
from components.shared.artifacts.markdown import markdown_code, markdown_text
from components.shared.digests import sha256_file
from components.shared.errors import UserError, printable, without_passwords
from components.shared.foreign_files.limits import ReadingLimits
from components.shared.programs.step_config import parse_config_text
from docs.write_hostile_inputs import PAGE, page
from tests.hostile import packages, pages, tables, texts
from tests.hostile.hostile_input import LARGEST, HostileInput
from tests.hostile.table import GROUPS

LIMITS = ReadingLimits(seconds=2, memory_bytes=300_000_000)
SELECTION = SelectionSettings(eval_fraction=0, seed=1)
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


def written(folder: Path, inputs: Iterable[HostileInput]) -> Path:
    folder.mkdir()
    for one in inputs:
        (folder / one.name).write_bytes(content_of(one))
    return folder


def content_of(one: HostileInput) -> bytes:
    content = one.made()
    assert len(content) < LARGEST, f"{one.name} has {len(content)} bytes"
    return content


def outcomes(source: str, names: Iterable[str]) -> dict[str, str]:
    """Read a source and return what came of each file, in the words of the table."""
    kept: Counter[str] = Counter()
    dropped: dict[str, set[str]] = {}
    longest = sorted(map(printable_name, names), key=len, reverse=True)
    for item in read_documents(SourceSettings(source=source, on_unreadable="skip"), LIMITS):
        name = next(name for name in longest if item.source_id.startswith(name))
        if isinstance(item, Unreadable):
            assert item.problem and len(item.problem) <= 500 and len(item.source_id) <= 500
            dropped.setdefault(name, set()).add(item.reason)
        elif isinstance(reason := examine(item, SELECTION), str):
            dropped.setdefault(name, set()).add(reason)
        else:
            kept[name] += 1
    return {name: said(kept[name], dropped.get(name, set())) for name in longest}


def said(kept: int, dropped: set[str]) -> str:
    return ", ".join([f"kept {kept}"] * bool(kept) + [f"dropped {reason}" for reason in sorted(dropped)])


def printable_name(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def expected(inputs: Iterable[HostileInput]) -> dict[str, str]:
    return {printable_name(one.name): one.expected for one in inputs}


@pytest.mark.parametrize("group", ["tables", "pdfs", "names"])
def test_files_of_a_folder(group: str, tmp_path: Path) -> None:
    inputs = {"tables": tables.INPUTS, "pdfs": pages.PDFS, "names": texts.FILE_NAMES}[group]
    folder = written(tmp_path / "in", inputs)
    assert outcomes(str(folder), [one.name for one in inputs]) == expected(inputs)


def test_texts_beside_scans(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", pages.SCANS)
    named = {}
    for one in pages.SCANS:
        (folder / one.name).rename(folder / f"{one.name.replace('.', '-')}{Path(one.name).suffix}")
        named[one.name.replace(".", "-") + ".png"] = one.expected
    for name in named:
        Image.new("L", (8, 8), 255).save(folder / name)
    assert outcomes(f"images:{folder}", named) == named


def test_pictures_of_pages(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", pages.PICTURES)
    loader = PictureLoader(LIMITS, 1288, 64_000_000)
    found = {}
    for one in pages.PICTURES:
        try:
            loader.load(PagePicture(str(folder / one.name), None, "text"))
            found[one.name] = "kept 1"
        except PageError as error:
            found[one.name] = f"dropped page_{error.reason}"
    loader.close()
    assert found == expected(pages.PICTURES)


@pytest.mark.parametrize("one", packages.PACKAGES, ids=lambda one: one.name)
def test_packages(one: HostileInput, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "a.zip"
    path.write_bytes(content_of(one))
    unpacked = tmp_path / "scratch" / f"a-{sha256_file(path)}"  # two runs may have packages of one name
    try:
        assert fetched(str(path), tmp_path / "scratch") == ModelFiles("a", unpacked, "tiny-base")
        found = "kept 1"
    except UserError as error:
        found = "refused"
        assert str(path) in str(error) or str(unpacked) in str(error)
    assert found == one.expected
    assert {each.relative_to(tmp_path).parts[:2] for each in tmp_path.rglob("*")} <= {
        ("a.zip",),
        ("scratch",),
        ("scratch", unpacked.name),
    }


@pytest.mark.parametrize("one", texts.SETTINGS, ids=lambda one: one.name)
def test_settings(one: HostileInput) -> None:
    try:
        parse_config_text(content_of(one).decode(), where="config.yaml")
        found = "kept 1"
    except UserError as error:
        found = "refused"
        assert str(error).startswith("config.yaml: ") and len(str(error)) < 2_000
    assert found == one.expected


@pytest.mark.parametrize("one", texts.ADDRESSES, ids=lambda one: one.how)
def test_addresses(one: HostileInput) -> None:
    address = content_of(one).decode()
    assert texts.SECRET in address
    assert texts.SECRET not in without_passwords(address)
    assert texts.SECRET not in str(UserError("down", where=address, mend=f"look at {address}"))


@pytest.mark.parametrize("one", texts.PAGE_TEXTS, ids=lambda one: one.name)
def test_texts_on_pages(one: HostileInput) -> None:
    text = content_of(one).decode()
    markdown = f"before {markdown_text(text)} after {markdown_code(text)} end"
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert set(re.findall(r"<(\w+)", shown)) <= {"p", "code"}
    assert not re.search(r"(?i)[a-z]+://|\bwww\.|[a-z0-9]@[a-z0-9]", re.sub(r"`[^`]*`", "", markdown))


@pytest.mark.parametrize("one", texts.TERMINAL_TEXTS, ids=lambda one: one.name)
def test_texts_in_terminals(one: HostileInput) -> None:
    text = content_of(one).decode()
    assert CONTROLS.search(text)
    for shown in (printable(text), str(UserError(text, where=text, mend=text))):
        assert not CONTROLS.search(shown)


def test_the_table_has_every_input_once_and_the_document_shows_it() -> None:
    inputs = [one for group in GROUPS for one in group.inputs]
    assert len(inputs) >= 120
    assert len({(group.reader, one.name) for group in GROUPS for one in group.inputs}) == len(inputs)
    assert PAGE.read_text(encoding="utf-8") == page(), "python docs/write_hostile_inputs.py writes it again"
