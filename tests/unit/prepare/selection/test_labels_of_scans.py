"""The label of a page that is taken as it is keeps every character that its picture can show."""

from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.prepare.documents.cleaning import clean_text
from components.prepare.documents.document import Document
from components.prepare.selection.candidate import Candidate, SelectionSettings, examine
from components.prepare.selection.document_store import read_record
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents

MUFI = "ſ\ue8bf\uf161 x\ue5dcb"
"""Abbreviations of manuscripts, as MUFI has them in the private use area."""
ALTO = "<alto><Layout><Page><TextBlock><TextLine><String CONTENT='{}'/></TextLine></TextBlock></Page></Layout></alto>"
HOCR = "<div class='ocr_page'><span class='ocr_line'>{}</span></div>"
BESIDE = {
    "s.txt": "{}",
    "s.gt.txt": "{}",
    "s.alto.xml": ALTO,
    "s.hocr": HOCR,
    "metadata.csv": "file_name,text\ns.png,{}",
}


def labels(source: str) -> list[str]:
    found = []
    for document in read_documents(SourceSettings(source=source)):
        assert isinstance(document, Document)
        candidate = examine(document, SelectionSettings(eval_fraction=0, seed=1))
        assert isinstance(candidate, Candidate)
        record = read_record(candidate.line)
        found.append(record["text"])
        assert [picture[2] for picture in record["pictures"]] == [record["text"]] * len(document.pictures)
    return found


@pytest.mark.parametrize("name", BESIDE)
def test_private_letters_beside_a_scan_stay(name: str, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "s.png")
    (tmp_path / name).write_text(BESIDE[name].format(MUFI), encoding="utf-8")
    assert labels(f"images:{tmp_path}") == [MUFI]


def test_private_letters_of_a_text_that_is_drawn_go(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text(MUFI, encoding="utf-8")
    assert labels(str(tmp_path)) == ["ſ xb"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=300)
def test_only_what_no_picture_shows_is_removed_beside_one(text: str) -> None:
    cleaned = clean_text(text, beside_picture=True)
    assert clean_text(cleaned, beside_picture=True) == cleaned
    if not regex.search(r"\p{M}|[\u200c\u200d\u1100-\u11ff]", text):
        shown = regex.compile(r"[^\p{Cc}\p{Cf}\p{NChar}\p{DI}\s\p{Z}]|\p{PCM}", regex.V1)
        assert len(shown.findall(cleaned)) >= len(shown.findall(text))


@given(st.text(st.characters(categories=["Co", "Cn"]), min_size=1, max_size=20))
def test_private_and_unassigned_letters_stay_beside_a_picture(text: str) -> None:
    kept = regex.sub(r"[\p{NChar}\p{DI}]", "", text)
    assert clean_text(f"a{text}b", beside_picture=True) == f"a{kept}b"
    assert clean_text(f"a{text}b") == "a" + regex.sub(r"\p{C}|\p{DI}", "", text) + "b"
