"""``deepsynth read``: files in, text out; with a model in this process."""

import json
import os
from pathlib import Path

import pypdfium2
import pytest
from typer.testing import CliRunner

from components.shared.errors import UserError
from pipelines.command_line import app
from pipelines.local.runs_folder import resolved_run
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.pdf_files import pdf_drawing_itself


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "one.png").write_bytes(as_file(drawn_page("one line")))
    (folder / "two.tiff").write_bytes(as_file(drawn_page("page one"), drawn_page("page two"), kind="TIFF"))
    (folder / "notes.txt").write_text("not a page")
    return folder


def test_a_folder_is_read_as_json_and_into_searchable_pdfs(files: Path, tmp_path: Path) -> None:
    target = tmp_path / "readable"
    said = CliRunner().invoke(app, ["read", str(files), "--json", "--searchable-pdf", str(target)])
    assert said.exit_code == 0, said.output
    pages = [json.loads(line) for line in said.stdout.splitlines()]
    places = [(Path(page["file"]).name, page["page"]) for page in pages]
    assert places == [("one.png", 1), ("two.tiff", 1), ("two.tiff", 2)]
    assert all(page["text"] and page["model"] == "tiny-base" for page in pages)
    document = pypdfium2.PdfDocument(target / "two.pdf")
    found = [page.get_textpage().get_text_bounded() for page in document]
    assert [text.split() for text in found] == [page["text"].split() for page in pages[1:]]


def test_a_file_name_that_is_not_utf_8_is_an_escape_in_json(tmp_path: Path) -> None:
    named = os.fsdecode(b"caf\xe9.png")
    (tmp_path / named).write_bytes(as_file(drawn_page("one line")))
    said = CliRunner().invoke(app, ["read", str(tmp_path), "--json"])
    assert said.exit_code == 0, said.output
    assert "caf\\udce9.png" in said.stdout and Path(json.loads(said.stdout)["file"]).name == named


def test_a_broken_file_does_not_keep_the_others_from_being_read(files: Path, tmp_path: Path) -> None:
    """The first, one whose first page can be read, one that the model's processor refuses, and the last."""
    (files / "a-broken.png").write_bytes(b"not a picture")
    two = as_file(drawn_page("page one"), drawn_page("page two"), kind="TIFF")
    (files / "own.tif").write_bytes(two[: len(two) * 3 // 4])
    (files / "thin.png").write_bytes(as_file(drawn_page("", width=300, height=1)))
    (files / "z-broken.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    target = tmp_path / "readable"
    said = CliRunner().invoke(app, ["read", str(files), "--json", "--searchable-pdf", str(target)])
    pages = [json.loads(line) for line in said.stdout.splitlines()]
    assert ("own.tif", 1) in [(Path(page["file"]).name, page["page"]) for page in pages]
    whole = [(Path(page["file"]).name, page["page"]) for page in pages if "own" not in page["file"]]
    assert whole == [("one.png", 1), ("two.tiff", 1), ("two.tiff", 2)]
    assert sorted(file.name for file in target.iterdir()) == ["one.pdf", "two.pdf"]
    problem = said.exception
    assert isinstance(problem, UserError) and "4 of 6 files failed" in problem.problem
    for name in ("a-broken.png", "own.tif", "thin.png", "z-broken.pdf"):
        assert name in problem.problem and f"error: {files / name}: " in said.stderr
    assert "neither a PDF nor a picture" in said.stderr


def test_at_most_ten_failed_files_are_named_at_the_end(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}.png").write_bytes(b"not a picture")
    said = CliRunner().invoke(app, ["read", str(tmp_path)])
    assert "12 of 12 files failed" in str(said.exception) and "09.png and 2 more" in str(said.exception)
    assert "11.png" in said.stderr


def test_pages_are_counted(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSYNTH_PROGRESS_FILE", str(tmp_path / "progress"))
    assert CliRunner().invoke(app, ["read", str(files)]).exit_code == 0
    last = json.loads((tmp_path / "progress").read_text().splitlines()[-1])
    assert (last["done"], last["note"]) == (3, "file 2 of 2")


def test_no_file_is_replaced_and_nothing_is_read_for_it(files: Path, tmp_path: Path) -> None:
    report = files / "report.pdf"
    report.write_bytes(as_file(drawn_page("report"), kind="PDF"))
    own = report.read_bytes()
    result = CliRunner().invoke(app, ["read", str(report), "--searchable-pdf", str(files)])
    assert isinstance(result.exception, UserError) and "there already" in str(result.exception)
    assert report.read_bytes() == own and not result.stdout
    (files / "one.tif").write_bytes(as_file(drawn_page("other"), kind="TIFF"))
    result = CliRunner().invoke(app, ["read", str(files), "--searchable-pdf", str(tmp_path / "new")])
    assert isinstance(result.exception, UserError) and "both go there" in str(result.exception)
    assert not result.stdout and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-file.png"], "no such file"),
        (["--json", "--markdown", "."], "give one of them"),
        (["--model", "http://127.0.0.1:1", "--base-model", "x", "."], "a service has its own base"),
        (["--served-model", "@champion", "."], "is for a service"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["read", *arguments])
    assert said in str(result.exception)


def test_a_run_that_is_not_there_is_told_without_asking_the_hub(files: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    answer = CliRunner().invoke(app, ["read", str(files), "--model", f"{tmp_path}/runs/none"])
    assert "no such file or folder" in str(answer.exception) and "deepsynth list" in str(answer.exception)


def test_a_run_is_read_with_its_adapter_and_its_package_folder_with_the_zip(tmp_path: Path) -> None:
    package = tmp_path / "r1" / "package"
    package.mkdir(parents=True)
    (tmp_path / "r1" / "config.yaml").touch()
    (package / "reader.zip").touch()
    assert resolved_run(str(package)) == str(package), "any folder may hold a zip: export's has the lineage beside it"
    (package / "lineage.json").touch()
    assert resolved_run(str(package)) == str(package / "reader.zip")
    assert resolved_run(str(tmp_path / "r1")) == str(tmp_path / "r1" / "adapter")
    assert [resolved_run(model) for model in ("tiny-base", "models:/reader@champion", None)] == [
        "tiny-base",
        "models:/reader@champion",
        None,
    ]


def test_a_file_that_is_no_page_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    result = CliRunner().invoke(app, ["read", str(broken)])
    assert str(broken) in str(result.exception) and "neither a PDF nor a picture" in str(result.exception)


@pytest.mark.slow
def test_a_file_without_end_is_named(files: Path) -> None:
    hostile = files / "draws-itself.pdf"
    hostile.write_bytes(pdf_drawing_itself())
    result = CliRunner().invoke(app, ["read", str(hostile)])
    assert isinstance(result.exception, UserError) and result.exception.where == str(hostile)
    assert "2 GiB of memory" in str(result.exception) or "more than 60 seconds" in str(result.exception)
