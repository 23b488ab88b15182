"""``deepsynth read``: files in, text out; with a model in this process."""

import json
import re
from pathlib import Path

import pypdfium2
import pytest
from typer.testing import CliRunner

from components.serve.offline.searchable_pdf import write_searchable_pdf
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
    assert [re.sub(r"\s+", " ", text) for text in found] == [" ".join(page["text"].split()) for page in pages[1:]]


def test_searchable_pdfs_find_every_script_and_look_like_their_pictures(tmp_path: Path) -> None:
    page, text = drawn_page("two\nlines", 280, 84), "первая строка\n第二行 é"
    write_searchable_pdf([(page, text)], tmp_path / "page.pdf")
    document = pypdfium2.PdfDocument(tmp_path / "page.pdf")
    read = document[0].get_textpage()
    assert read.get_text_bounded().split() == text.split()
    first, second = (read.get_charbox(index) for index in (0, len("первая строка\r\n")))
    assert first[1] > second[3], "each line of text is behind its line of ink"
    drawn = document[0].render(scale=150 / 72).to_pil().convert("L").resize(page.size)
    pairs = zip(drawn.tobytes(), page.convert("L").tobytes(), strict=True)
    assert sum(abs(one - other) for one, other in pairs) / len(drawn.tobytes()) < 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-file.png"], "no such file"),
        (["--json", "--markdown", "."], "give one of them"),
        (["--model", "http://127.0.0.1:1", "--searchable-pdf", "x", "."], "needs the pictures here"),
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
