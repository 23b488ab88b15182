"""hOCR: words, formulas and scripts in lines, and every container class of the specification."""

import pytest

from components.prepare.sources.pages.scan_text import hocr_text


def page_text(inner: str) -> str:
    return hocr_text(f"<html><body><div class='ocr_page'>{inner}</div></body></html>".encode())


def line(*parts: str) -> str:
    return f"<span class='ocr_line'>{''.join(parts)}</span>"


def word(text: str) -> str:
    return f"<span class='ocrx_word'>{text}</span>"


WORDS = {
    line(word("Hello"), word("World")): "Hello World",
    line(word("<b>Hel</b>lo"), word("<i>World</i>")): "Hello World",
    line(word("One"), " ", word("com"), word("pound")): "One compound",
    line(word("Hello"), ",", word("World")): "Hello,World",
    line(word("日"), word("本"), word("語")): "日本語",
    line(word("日本"), word("PDF")): "日本 PDF",
    line("no words"): "no words",
    line(word("Hello"), "\n  ", word("World"), "\n"): "Hello World",
}


@pytest.mark.parametrize("inner", WORDS)
def test_words_have_spaces_between_them(inner: str) -> None:
    assert page_text(inner) == WORDS[inner]


INSIDE = ["pageno", "math", "chem", "dropcap", "glyph", "glyphs", "title", "author", "header", "caption", "textfloat"]


@pytest.mark.parametrize("name", INSIDE)
def test_a_line_around_another_class_stays_whole(name: str) -> None:
    assert page_text(line("A ", f"<span class='ocr_{name}'>3</span>", " B")) == "A 3 B"


@pytest.mark.parametrize("name", ["math", "chem", "pageno", "header", "footer", "caption", "title", "author"])
def test_without_a_line_around_them_they_are_lines(name: str) -> None:
    drawn = line("before") + f"<p class='ocr_{name}'>x=1</p><div class='ocr_{name}'>H2O</div>" + line("after")
    assert page_text(drawn).split() == ["before", "x=1", "H2O", "after"]
    assert "x=1\nH2O" in page_text(drawn)


CONTAINERS = [
    *("document", "title", "author", "abstract", "part", "chapter", "section", "subsection", "subsubsection"),
    *("display", "blockquote", "par", "linear", "caption", "column", "carea", "separator", "noise"),
    *("float", "textfloat", "textimage", "image", "linedrawing", "photo", "header", "footer", "pageno", "table"),
    *("glyph", "glyphs", "dropcap", "math", "chem"),
]


@pytest.mark.parametrize("name", [f"ocr_{name}" for name in CONTAINERS] + ["ocrx_block"])
def test_lines_in_each_class_of_the_specification_come_once_and_in_order(name: str) -> None:
    inside = f"<div class='{name}'>{line('one')}{line('two')}</div>"
    text = page_text(line("first") + inside + line("last"))
    assert text.split() == ["first", "one", "two", "last"]
    assert "one\ntwo" in text


@pytest.mark.parametrize("tag", ["script", "style", "template"])
def test_what_no_browser_shows_is_no_text(tag: str) -> None:
    hidden = f"<{tag}>p{{x}} alert(1)</{tag}>"
    assert page_text(hidden + line("A", hidden, "B") + hidden) == "AB"


def test_a_line_break_behind_the_last_word_is_no_space_between_words() -> None:
    assert page_text(line(word("Hello"), word("World"), "\n")) == "Hello World"
