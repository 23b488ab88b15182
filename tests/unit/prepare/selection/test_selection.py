"""Selecting documents: cleaning, duplicates, the split, and what is stored."""

import hashlib
import json
import random
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from fontTools.unicodedata import script
from hypothesis import given, settings
from hypothesis import strategies as st

from components.prepare.documents.cleaning import clean_text
from components.prepare.documents.document import Document, PagePicture
from components.prepare.selection.document_store import (
    DOCUMENTS_PER_FILE,
    document_line,
    numbered,
    read_documents,
    write_lines,
)
from components.prepare.selection.fingerprint import fingerprint, fold
from components.prepare.selection.near_duplicates import (
    Match,
    NearDuplicateIndex,
    bands_and_rows,
    jaccard,
    minhash_signature,
    shingles,
)
from components.prepare.selection.script_census import ScriptCensus
from components.prepare.selection.selected_document import SelectedDocument
from components.prepare.selection.selecting import SelectionSettings, select_documents
from components.prepare.selection.selection_record import Selection
from components.prepare.selection.splitting import lowest_of_both_sides, mixture, with_both_sides
from components.prepare.settings.source_settings import SourceSettings
from components.shared.errors import UserError

PERSIAN = "می‌خواهم کتاب‌های فارسی را بخوانم"
PLAIN = SelectionSettings(eval_fraction=0.25, seed=0)

HARD_LETTERS = (
    "ab \n\t\r\u0301\u0323\u200b\u200c\u200d\u200d\u3000\xa0\xad\u2028\ufe0f\u0646\u0627\u064b\u0640\u0915\u094d\u0d4d"
    "\u0f73\u0dd9\u0dca\ue000\ud800\u06dd\u1100\u1161"
)
texts = st.text() | st.text(st.sampled_from(HARD_LETTERS), max_size=60)


def words(amount: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [f"word{generator.randrange(10**6)}" for _ in range(amount)]


def changed(text: str, amount: int, seed: int = 0) -> str:
    """Return ``text`` with ``amount`` of its words replaced, far apart from each other."""
    parts = text.split(" ")
    for number in range(amount):
        parts[(2 * number + 1) * len(parts) // (2 * amount)] = f"changed{seed}-{number}"
    return " ".join(parts)


def prose(amount: int, length: int = 60, seed: int = 0) -> list[str]:
    return [" ".join(words(length, seed * 10_000 + number)) for number in range(amount)]


def documents_of(contents: Iterable[Any], name: str = "d") -> list[Document]:
    return [Document(f"{name}{number}", text) for number, text in enumerate(contents)]


def selected(
    *sources: list[Document],
    holdout: list[Document] | None = None,
    weights: tuple[float, ...] = (1, 1, 1),
    folder: Path | None = None,
    **changes: Any,
) -> tuple[Selection, list[SelectedDocument]]:
    """Select from iterators, as the step does, and return the documents that were written too."""
    given_sources = [
        (SourceSettings(source=f"source{number}", weight=weights[number]), iter(documents))
        for number, documents in enumerate(sources)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        held_out = None if holdout is None else iter(holdout)
        selection = select_documents(given_sources, held_out, replace(PLAIN, **changes), folder or Path(scratch))
        return selection, list(selection.read_documents())


def sides(found: list[SelectedDocument]) -> dict[str, str]:
    return {document.source_id: document.split for document in found}


# Cleaning


def slowly_cleaned(text: str) -> str:
    """Slow reference: clean one character at a time by Unicode's definitions; for texts without long runs of marks."""
    for line_end in ("\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029"):
        text = text.replace(line_end, "\n")
    kept: list[str] = []
    for letter in text.replace("\t", "    "):
        if regex.match(r"\p{Zs}", letter) and letter != "\u3000":
            kept.append(" ")
        elif letter in "\n\u200c\u200d" or regex.match(r"\p{PCM}", letter) or not regex.match(r"\p{C}|\p{DI}", letter):
            kept.append(letter)
    kept = [
        letter
        for place, letter in enumerate(kept)
        if letter not in "\u200c\u200d" or place == 0 or kept[place - 1] not in "\u200c\u200d"
    ]
    whole = unicodedata.normalize("NFC", "".join(kept))
    shaped = [
        letter
        for place, letter in enumerate(whole)
        if letter not in "\u200c\u200d" or joiner_matters(letter, whole[:place], whole[place + 1 :])
    ]
    lines = [line.rstrip(" \u3000") for line in unicodedata.normalize("NFC", "".join(shaped)).split("\n")]
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip(" \n\u3000")


def joiner_matters(joiner: str, before: str, after: str) -> bool:
    """Look at the letter before and the letter after, and at the marks between them and the joiner."""
    connecting = set(regex.findall("....", "ArabSyrcMandMongNkooPhagAdlmRohg"))
    conjuncts = regex.findall("....", "DevaBengGuruGujrOryaTamlTeluKndaMlymSinhMymrKhmrJavaBaliNewaTirhCakmLepc")
    left, right = neighbours(reversed(before)), neighbours(after)
    shapes = [used_by(letters, connecting.union(conjuncts)) for letters in (left, right)]
    if all(shapes) or joiner == "\u200c":
        return all(shapes)
    return used_by(left, connecting) or used_by(right, connecting) or any(map(is_virama, left))


def is_virama(letter: str) -> bool:
    return unicodedata.combining(letter) == 9


def neighbours(letters: Iterable[str]) -> list[str]:
    """Return the leading combining marks and the letter after them."""
    found = []
    for letter in letters:
        found.append(letter)
        if not unicodedata.combining(letter) and letter not in "\u0f73\u0f75\u0f81":
            break
    return found


def used_by(letters: list[str], scripts: set[str]) -> bool:
    return any(
        letter == "ـ" or (unicodedata.category(letter)[0] in "LM" and script(letter) in scripts) for letter in letters
    )


@given(texts)
def test_cleaning_equals_the_slow_reference(text: str) -> None:
    if not regex.search(r"[\P{ccc=0}\u0F73]{10}", text):
        assert clean_text(text) == slowly_cleaned(text)


@given(texts)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


@given(texts)
def test_a_cleaned_text_holds_only_what_can_be_seen(text: str) -> None:
    cleaned = clean_text(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not regex.search(r"[[\p{C}\p{DI}\p{Z}]--[\p{PCM} \n\u3000\u200c\u200d]]", cleaned, regex.V1)
    assert cleaned == cleaned.strip() and "\n\n\n" not in cleaned and not regex.search(r"[ \u3000]\n", cleaned)


@pytest.mark.parametrize("mark", ["\u0301", "\u0301\u0323", "\u0f73", "\u0344\u0345"])
@pytest.mark.parametrize("base", ["a", "é", "ṩ", "가", "", "\n"])
@pytest.mark.parametrize("times", [4, 9, 10, 29, 31, 64])
def test_runs_of_marks_are_cut_once_and_for_all(base: str, mark: str, times: int) -> None:
    cleaned = clean_text(f"x{base}{mark * times}b")
    assert clean_text(cleaned) == cleaned
    assert all(len(run) <= 31 for run in regex.findall(r"\P{ccc=0}+", unicodedata.normalize("NFD", cleaned)))


def test_what_is_hostile_to_slow_algorithms_is_cleaned_quickly() -> None:
    # The five took 0.5 s on a development machine; in quadratic time each would take minutes.
    assert len(clean_text("a" + "\u0301\u0323" * 500_000 + "b")) < 40
    assert clean_text("a" + " " * 1_000_000 + "b \n").count(" ") == 1_000_000
    assert clean_text("a" + "\u200c\u200d" * 500_000 + "b") == "ab"
    assert clean_text("a" + " \n" * 500_000 + "b") == "a\n\nb"
    assert len(clean_text("a" + "\u200c\u0301\u0323" * 300_000 + "b")) < 40


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (PERSIAN, PERSIAN),
        ("off\u200cice, co\u00adoperate, zero\u200bwidth, \ufeffmark", "office, cooperate, zerowidth, mark"),
        ("سلام\u200c دنیا", "سلام دنیا"),
        ("۱۳۵۷ ه\u200d.ش", "۱۳۵۷ ه\u200d.ش"),
        ("ന്\u200d", "ന്\u200d"),
        ("क\u200d a", "क a"),
        ("👨\u200d👩\u200d👧 ❤\ufe0f", "👨👩👧 ❤"),
        ("\u202eevil\u202c \u2066x\u2069", "evil x"),
        ("end of ayah\u06dd", "end of ayah\u06dd"),
        ("a\tb\r\nc\rd\x0ce\u2028f", "a    b\nc\nd\ne\nf"),
        ("a\x00b\x1bc\ue000d\U000f0000e\ud800f\U000e0041", "abcdef"),
        ("  one  \n\n\n\n two \u3000\n", "one\n\n two"),
        ("一\u3000二\xa0三\u2009四", "一\u3000二 三 四"),
        ("e\u200b\u0301", "é"),
        ("\x00\u200b\ue000 \u3000\n", ""),
        ("A\u0323\u200d", "Ạ"),
        ("کتاب\u064e\u200cها", "کتاب\u064e\u200cها"),
        ("می\u200c\u200d\u200cشود", "می\u200cشود"),
    ],
)
def test_cleaning_by_example(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


# Copies


def index_matches(
    contents: list[str], folder: Path, threshold: float | None = 0.8, seed: int = 0
) -> list[Match | None]:
    kept: list[str] = []
    matches = []
    with NearDuplicateIndex(folder, threshold, seed, lambda number: kept[number]) as index:
        for text in contents:
            document = fingerprint(text, seed)
            signature = None if threshold is None else minhash_signature(document.folded, seed)
            matches.append(index.admit(document.digest, signature, lambda folded=document.folded: folded))  # type: ignore[misc]
            if matches[-1] is None:
                kept.append(document.folded)
    assert not list(folder.glob("*.sqlite*")), "the index leaves nothing behind"
    return matches


def test_exact_copies_are_those_that_differ_in_case_spaces_and_compatible_forms(tmp_path: Path) -> None:
    found = index_matches(["Straße des 1. Mai", "STRASSE  des\n1. mai", "ﬁne ①", "FINE 1", "fine 2"], tmp_path, None)
    assert found == [None, Match("exact", 0, 1.0), None, Match("exact", 1, 1.0), None]


@given(st.text())
def test_folding_is_folded(text: str) -> None:
    folded = fold(clean_text(text))
    assert fold(folded) == folded and folded == " ".join(folded.split())


def test_the_threshold_divides_near_copies_from_others(tmp_path: Path) -> None:
    text = " ".join(words(400, seed=1))
    copies = {amount: changed(text, amount, seed=amount) for amount in (1, 5, 40, 100)}
    truth = {amount: jaccard(shingles(fold(text)), shingles(fold(copy))) for amount, copy in copies.items()}
    assert truth[5] > 0.8 > truth[40] > 0.3
    found = index_matches([text, *copies.values()], tmp_path)
    assert [match and (match.kind, match.number) for match in found] == [None, ("near", 0), ("near", 0), None, None]
    assert [match.similarity for match in found if match] == pytest.approx([truth[1], truth[5]])


@pytest.mark.parametrize("order", [(20, 24), (24, 20)])
def test_the_most_similar_document_is_named(order: tuple[int, int], tmp_path: Path) -> None:
    text = " ".join(words(400, seed=2))
    two = [changed(text, amount, seed=amount) for amount in order]
    assert jaccard(*(shingles(fold(other)) for other in two)) < 0.5
    found = index_matches([*two, text], tmp_path, 0.5)
    # 20 changed words break 100 of the 396 shingles: 296 of 496 are shared.
    assert found == [None, None, Match("near", order.index(20), 296 / 496)]


def test_short_texts_are_copies_only_where_they_are_equal(tmp_path: Path) -> None:
    contents = ["one two three", "one two four", "One  two three", "a", "b", "a b c d e", "a b c d f"]
    found = index_matches(contents, tmp_path, 0.5)
    assert [match and match.number for match in found] == [None, None, 0, None, None, None, None]


@pytest.mark.parametrize(
    "text",
    [
        "机器学习是人工智能的一个分支。它研究计算机怎样模拟或实现人类的学习行为，以获取新的知识或技能。" * 1,
        "ภาษาไทยเป็นภาษาที่ไม่เว้นวรรคระหว่างคำและใช้อักษรไทยในการเขียนหนังสือทุกประเภท",
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。",
    ],
)
def test_near_copies_in_scripts_without_spaces(text: str, tmp_path: Path) -> None:
    other = text[::-1]
    found = index_matches([text, other, text + "完"], tmp_path)
    assert found[:2] == [None, None] and found[2] and found[2].number == 0


def test_a_language_with_spaces_is_compared_by_words() -> None:
    assert shingles("a b c d e f") == {"a b c d e", "b c d e f"}
    assert shingles("ab漢字cd 漢漢漢") == {"ab 漢 字 cd 漢", "漢 字 cd 漢 漢", "字 cd 漢 漢 漢"}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_find_nine_of_ten_at_the_threshold(threshold: float) -> None:
    bands, rows = bands_and_rows(threshold)
    assert bands * rows <= 128 and 1 - (1 - threshold**rows) ** bands >= 0.9


def test_the_recall_is_the_formula_s(tmp_path: Path) -> None:
    """Pairs slightly above the threshold of 0.8: by 1-(1-s^r)^b at least 0.947 of them are found."""
    originals = prose(300, length=230)
    copies = [changed(text, 4, seed=number) for number, text in enumerate(originals)]
    similarity = jaccard(shingles(fold(originals[0])), shingles(fold(copies[0])))
    assert 0.8 < similarity < 0.85
    found = index_matches(originals + copies, tmp_path)
    assert found[:300] == [None] * 300
    named = [match.number == number for number, match in enumerate(found[300:]) if match]
    assert all(named) and len(named) >= 0.94 * 300


def test_boilerplate_that_all_share_makes_no_copies_and_hides_none(tmp_path: Path) -> None:
    letter = " ".join(words(300, seed=10**6))
    contents = [f"{letter} {text}" for text in prose(400, length=130)]
    last = len(contents) - 1
    found = index_matches([*contents, changed(contents[last], 2)], tmp_path)
    assert found[:-1] == [None] * 400 and found[-1] and found[-1].number == last


def test_among_many_that_are_nearly_copies_the_one_that_is_is_found(tmp_path: Path) -> None:
    letter = " ".join(words(300, seed=10**6))
    contents = [f"{letter} {text}" for text in prose(60, length=40)]
    assert 0.75 < jaccard(*(shingles(text) for text in contents[:2])) < 0.8
    found = index_matches([*contents, changed(contents[50], 1)], tmp_path)
    assert found[:-1] == [None] * 60 and found[-1] and found[-1].number == 50


def test_the_seed_moves_only_what_is_at_the_edge(tmp_path: Path) -> None:
    contents = prose(40) + [changed(text, 1) for text in prose(40, length=60)]
    for seed in (-1, 0, 2**80):
        assert sum(match is not None for match in index_matches(contents, tmp_path, 0.7, seed)) >= 38


def test_a_threshold_that_is_none_is_refused(tmp_path: Path) -> None:
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            NearDuplicateIndex(tmp_path, threshold, 0, str)


# Selecting


def test_copies_across_the_holdout_are_told_from_others(tmp_path: Path) -> None:
    first, second, third = prose(3, length=200)
    held = documents_of([first, second, first.upper()], "h")
    source = documents_of([third, first, changed(second, 1), changed(third, 1), third], "s")
    selection, found = selected(source, holdout=held)
    assert sides(found) == {"h0": "eval", "h1": "eval", "s0": "train"}
    assert selection.dropped == {
        "document_duplicate": 2,
        "document_duplicate_across_splits": 1,
        "document_near_duplicate": 1,
        "document_near_duplicate_across_splits": 1,
    }
    assert [part.dropped.total() for part in selection.sources] == [1, 4]


def test_near_copies_whose_own_hash_says_the_other_side_are_told(tmp_path: Path) -> None:
    originals = prose(60, length=200)
    copies = [changed(text, 1) for text in originals]
    selection, _ = selected(documents_of(originals + copies), eval_fraction=0.5)
    across = sum(
        (fingerprint(one, 0).position < 0.5) != (fingerprint(other, 0).position < 0.5)
        for one, other in zip(originals, copies, strict=True)
    )
    assert selection.dropped == {
        "document_near_duplicate": 60 - across,
        "document_near_duplicate_across_splits": across,
    }


def test_each_reason_is_counted(tmp_path: Path) -> None:
    good = {"text": "a text", "target": "short"}
    rows: list[dict[str, Any]] = [
        good,
        {**good, "text": 5},
        {**good, "text": None},
        {**good, "text": " \u200b\n"},
        {**good, "text": "long " * 100},
        {**good, "target": "long " * 100},
        {"text": "no target"},
        {"text": "empty target", "target": " \x00"},
        {"text": "a number as target", "target": 4},
        {**good, "text": "A  TEXT"},
        {**good, "text": "another"},
    ]
    documents = [Document(str(number), **row) for number, row in enumerate(rows)]
    expected = {"document_not_text": 2, "document_empty": 1, "document_too_long": 2, "document_duplicate": 1}
    selection, found = selected(documents, task="summarize", max_document_characters=100)
    assert selection.dropped == {**expected, "document_without_target": 3} and sides(found).keys() == {"0", "10"}
    assert found[0].target == "short"
    selection, found = selected(documents, max_document_characters=100)
    assert selection.dropped == {**expected, "document_too_long": 1, "document_duplicate": 2}
    assert {document.target for document in found} == {None}


def test_titles_originals_and_pictures() -> None:
    pages = (PagePicture("/scans/1.pdf", 0, "one\r\npage"), PagePicture("/scans/2.png", None, "\u200b"))
    rows = [
        Document("plain", "as it is", lang="en"),
        Document("title", "below\n\nthe title", title="Title"),
        Document("dirty", "e\u0301\u200b", title="Title"),
        Document("scan", "one\r\npage\n\n", pictures=pages, title="not on the page"),
    ]
    _, found = selected(rows)
    assert [(item.text, item.original_text, item.lang) for item in found] == [
        ("as it is", None, "en"),
        ("Title\n\nbelow\n\nthe title", None, "und"),
        ("Title\n\né", "e\u0301\u200b", "und"),
        ("one\npage", "one\r\npage\n\n", "und"),
    ]
    assert found[3].pictures == (PagePicture("/scans/1.pdf", 0, "one\npage"), PagePicture("/scans/2.png", None, ""))


def test_scripts_and_characters_of_the_selected_documents() -> None:
    contents = ["latin abc 123", f"{PERSIAN} and latin", "Ελληνικά", "漢字かな", "1 2 3", "漢字 on the list"]
    selection, _ = selected(documents_of(contents))
    assert selection.scripts == {"Latn": 3, "Arab": 1, "Grek": 1, "Hani": 2, "Hira": 1}
    assert selection.characters["Grek"] == "".join(sorted(set("Ελληνικά")))
    assert set("".join(selection.characters.values())) == set("".join(contents))


def test_scripts_of_documents_over_weight_are_not_counted() -> None:
    rest = documents_of([PERSIAN, "Ελληνικά", "漢字", "кириллица"], "rest")
    selection, found = selected(documents_of(prose(2)), rest, weights=(1, 0.5))
    own = Counter(code for item in found for code in {script(letter) for letter in item.text} - {"Zyyy", "Zinh"})
    assert len(found) == 3 and selection.scripts == own and len(own) == 2


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_the_census_agrees_with_font_tools(contents: list[str]) -> None:
    census = ScriptCensus()
    for text in contents:
        census.add(text)
    truth = Counter(code for text in contents for code in {script(letter) for letter in text})
    counted = census.documents_by_script(np.ones(len(contents), dtype=bool))
    assert counted == {code: amount for code, amount in truth.items() if code not in ("Zyyy", "Zinh", "Zzzz")}
    assert {code: set(letters) for code, letters in census.characters_by_script().items()} == {
        code: {letter for text in contents for letter in text if script(letter) == code} for code in truth
    }


def test_one_side_alone_gets_a_document_of_the_other() -> None:
    contents = prose(8)
    positions = {f"d{number}": fingerprint(text, 0).position for number, text in enumerate(contents)}
    for fraction, side, moved in ((1e-9, "eval", min), (1 - 1e-9, "train", max)):
        _, found = selected(documents_of(contents), eval_fraction=fraction)
        assert [name for name, split in sides(found).items() if split == side] == [moved(positions, key=positions.get)]
    assert set(sides(selected(documents_of(contents), eval_fraction=0.0)[1]).values()) == {"train"}
    assert set(sides(selected(documents_of(contents[:1]))[1]).values()) == {"train"}


def test_sources_are_mixed_by_weight_and_both_sides_alike() -> None:
    sources = [documents_of(prose(amount, seed=amount), f"{amount}-") for amount in (40, 80, 30)]
    selection, found = selected(*sources, weights=(2, 1, 1), eval_fraction=0.5)
    assert [part.kept for part in selection.sources] == [40, 20, 20]
    assert selection.dropped == {"document_over_weight": 70}
    assert [document.number for document in found] == list(range(80))
    names = [document.source_id.split("-")[0] for document in found]
    assert names == ["40"] * 40 + ["80"] * 20 + ["30"] * 20, "in the sources' order"
    alone = sides(selected(sources[1], eval_fraction=0.5)[1])
    mixed = {name: side for name, side in sides(found).items() if name.startswith("80-")}
    assert mixed.items() <= alone.items()
    share = Counter(alone.values())["eval"] / 80
    assert abs(Counter(mixed.values())["eval"] - 20 * share) <= 0.5


def test_a_mixture_takes_the_lowest_positions_of_each_side() -> None:
    source = documents_of(prose(40, seed=9), "s")
    _, found = selected(source, documents_of(prose(15, seed=8)), eval_fraction=0.5)
    picked = {item.source_id for item in found}
    for low, high in ((0.0, 0.5), (0.5, 1.0)):
        positions = {d.source_id: fingerprint(d.text, 0).position for d in source}
        ordered = sorted((name for name in positions if low <= positions[name] < high), key=positions.__getitem__)
        taken = [name in picked for name in ordered]
        assert taken == sorted(taken, reverse=True) and any(taken)


def test_without_weights_all_documents_of_all_sources_are_kept(tmp_path: Path) -> None:
    sources = [
        (SourceSettings(source=name), [Document(f"{name}{number}", text) for number, text in enumerate(texts)])
        for name, texts in (("few", prose(12)[:3]), ("many", prose(12)[3:]))
    ]
    settings = SelectionSettings(eval_fraction=0.3, seed=0)
    selection = select_documents(sources, None, settings, tmp_path)
    assert [counts.kept for counts in selection.sources] == [3, 9] and not selection.dropped


def test_weights_are_the_decimal_numbers_they_are_written_as() -> None:
    assert mixture([10, 10_000], [0.1, 0.3]) == [10, 30]
    assert mixture([30, 100], [0.3, 0.7]) == [30, 70]


def test_the_holdout_is_no_part_of_the_mixture() -> None:
    parts = [documents_of(prose(amount, seed=amount), f"{amount}-") for amount in (10, 20, 50)]
    selection, found = selected(*parts[:2], holdout=parts[2], weights=(0.1, 0.1))
    assert [(part.source, part.kept) for part in selection.sources] == [
        ("holdout", 50),
        ("source0", 10),
        ("source1", 10),
    ]
    assert selection.documents == {"eval": 50, "train": 20}
    assert [document.split for document in found] == ["eval"] * 50 + ["train"] * 20


@given(st.lists(st.tuples(st.integers(1, 10**7), st.sampled_from([0.1, 0.3, 1.0, 2.5, 7.0])), min_size=1))
def test_the_mixture_is_the_largest_that_keeps_the_weights(parts: list[tuple[int, float]]) -> None:
    available, weights = zip(*parts, strict=True)
    kept = mixture(available, weights)
    assert any(amount == count for amount, count in zip(kept, available, strict=True))
    assert all(0 <= amount <= count for amount, count in zip(kept, available, strict=True))
    total = min(count / weight for count, weight in parts)
    assert all(abs(amount - weight * total) < 1.001 for amount, weight in zip(kept, weights, strict=True))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, exclude_max=True))), st.data())
def test_as_many_are_picked_as_asked_for(members: list[tuple[bool, float]], data: st.DataObject) -> None:
    amount = data.draw(st.integers(0, len(members)))
    evaluated = np.array([side for side, _ in members], dtype=bool)
    positions = np.array([position for _, position in members])
    kept = lowest_of_both_sides(evaluated, positions, amount)
    assert kept.sum() == amount
    assert abs(kept[evaluated].sum() * len(members) - amount * evaluated.sum()) <= len(members) / 2
    both = with_both_sides(evaluated, positions)
    assert len(members) < 2 or 0 < both.sum() < len(members)


def test_a_source_without_documents_cannot_be_mixed() -> None:
    with pytest.raises(UserError, match=r"source source1: no document can be used \(document_empty: 1 \(d0\)\)"):
        selected(documents_of(["a text"]), documents_of([""]))


def test_nothing_but_the_documents_and_the_record_is_left(tmp_path: Path) -> None:
    selected(documents_of(prose(3)), folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents-000000.jsonl", "selection.json"]

    def broken() -> Iterable[Document]:
        yield Document("a", "a text")
        raise UserError("the file is cut off")

    with pytest.raises(UserError, match="cut off"):
        select_documents([(SourceSettings(), broken())], None, PLAIN, tmp_path / "broken")
    assert list((tmp_path / "broken").iterdir()) == []


def test_the_same_documents_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    contents = prose(50) + [changed(text, 1) for text in prose(20)]
    for name in ("one", "two"):
        selected(documents_of(contents), folder=tmp_path / name)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    _, found = selected(documents_of(contents), seed=1)
    assert sides(found) != sides(list(Selection.load(tmp_path / "one").read_documents()))


def test_the_sides_are_those_of_earlier_versions() -> None:
    """A document stays in the split that it had in version 0.1; this test repeats the rule of that version."""
    contents = [f"Document {number}\ntells of the FOX." for number in range(12)]
    keys = [f"3:document {number} tells of the fox." for number in range(12)]
    positions = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 for key in keys]
    expected = {f"d{number}": "eval" if place < 0.25 else "train" for number, place in enumerate(positions)}
    assert sides(selected(documents_of(contents), seed=3)[1]) == expected and len(set(expected.values())) == 2


contents_and_copies = st.lists(
    st.one_of(texts, st.integers(0, 5).map(lambda number: prose(6)[number]), st.none())
    | st.tuples(st.integers(0, 5), st.integers(1, 3)).map(lambda which: changed(prose(6, 120)[which[0]], which[1])),
    max_size=25,
)


@settings(max_examples=60)
@given(contents_and_copies, contents_and_copies, st.integers(0, 3), st.booleans())
def test_any_documents_in_any_order(first: list[Any], added: list[Any], seed: int, with_holdout: bool) -> None:
    """Counts add up, no copy is in the other split, and documents keep their split when others are appended."""
    holdout = documents_of(first[::3], "h") if with_holdout else None
    before, found = selected(documents_of(first), holdout=holdout, seed=seed)
    after, more = selected(documents_of(first + added), holdout=holdout, seed=seed)
    for selection, kept in ((before, found), (after, more)):
        assert selection.read == selection.count + selection.dropped.total() and selection.count == len(kept)
        assert selection.documents == {side: list(sides(kept).values()).count(side) for side in ("train", "eval")}
        assert len({fold(document.text) for document in kept}) == len(kept)
        shingled = [(document.split, shingles(fold(document.text))) for document in kept]
        assert all(
            jaccard(one, other) < 0.95 for side, one in shingled for other_side, other in shingled if side != other_side
        )
    assert [item.source_id for item in found] == [item.source_id for item in more][: len(found)]
    if {"train", "eval"} == natural_sides(found, seed) == natural_sides(more, seed) or with_holdout:
        assert sides(found).items() <= sides(more).items()


def natural_sides(found: list[SelectedDocument], seed: int) -> set[str]:
    return {"eval" if fingerprint(item.text, seed).position < PLAIN.eval_fraction else "train" for item in found}


# The store

pictures = st.builds(PagePicture, path=st.text(), page_index=st.none() | st.integers(0, 9), text=st.text())
any_text = st.text(st.characters())
stored = st.builds(
    SelectedDocument,
    number=st.just(0),
    source_id=any_text,
    text=any_text,
    original_text=st.none() | any_text,
    lang=st.text(),
    split=st.sampled_from(["train", "eval"]),
    target=st.none() | any_text,
    pictures=st.lists(pictures, max_size=2).map(tuple),
)


def write_documents(folder: Path, documents: Iterable[SelectedDocument]) -> int:
    def line_of(item: SelectedDocument) -> bytes:
        line = document_line(item.source_id, item.text, item.original_text, item.lang, item.target, item.pictures)
        return numbered(item.number, item.split, line)

    return write_lines(folder, ((item.number, line_of(item)) for item in documents))


@given(st.lists(stored, max_size=4), st.integers(0, 4), st.integers(0, 5))
def test_the_store_gives_back_what_it_was_given(documents: list[SelectedDocument], start: int, stop: int) -> None:
    documents = [replace(document, number=number) for number, document in enumerate(documents)]
    with tempfile.TemporaryDirectory() as folder:
        assert write_documents(Path(folder), iter(documents)) == len(documents)
        assert list(read_documents(Path(folder))) == documents
        assert list(read_documents(Path(folder), start, min(stop, len(documents)))) == documents[start:stop]


def test_lone_surrogates_that_make_a_pair_are_kept_as_two(tmp_path: Path) -> None:
    document = SelectedDocument(0, "\udcff", "a", "\ud83d\ude00", "und", "train")
    write_documents(tmp_path, [document])
    assert list(read_documents(tmp_path)) == [document]


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    documents = (
        SelectedDocument(number, f"d{number}", "a text", None, "und", "train")
        for number in range(2 * DOCUMENTS_PER_FILE + 5)
    )
    assert write_documents(folder, documents) == 2 * DOCUMENTS_PER_FILE + 5
    return folder


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 3), (9_998, 10_003), (10_000, 10_001), (9_999, 10_000), (5, 20_001), (20_003, None), (7, 7), (20_005, None)],
)
def test_a_partition_reads_its_own_part(large_store: Path, start: int, stop: int | None) -> None:
    expected = list(range(start, 20_005 if stop is None else stop))
    assert [document.number for document in read_documents(large_store, start, stop)] == expected


def test_a_partition_opens_only_its_own_files(large_store: Path, tmp_path: Path) -> None:
    (tmp_path / "documents-000001.jsonl").symlink_to(large_store / "documents-000001.jsonl")
    assert len(list(read_documents(tmp_path, 10_000, 20_000))) == 10_000


def damaged_store(folder: Path, change: Callable[[list[str]], list[str]]) -> Path:
    write_documents(folder, [SelectedDocument(n, f"d{n}", "text", None, "und", "train") for n in range(5)])
    path = folder / "documents-000000.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:3], "the selected document 3 is missing"),
        (lambda lines: [*lines[:3], lines[3][:20]], r"jsonl:4: the line is not a selected document"),
        (lambda lines: lines[1:], r"jsonl:1: the line is not a selected document"),
        (lambda lines: [*lines[:2], "null\n", *lines[3:]], r"jsonl:3: the line is not a selected document"),
        (lambda lines: [*lines[:2], '{"number":2,"pictures":3}\n'], r"jsonl:3: the line is not a selected document"),
    ],
)
def test_a_damaged_store_is_named(change: Callable[[list[str]], list[str]], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        list(read_documents(damaged_store(tmp_path, change), 0, 5))


def test_documents_are_not_written_over_others(tmp_path: Path) -> None:
    document = SelectedDocument(0, "d", "text", None, "und", "train")
    write_documents(tmp_path, [document])
    with pytest.raises(FileExistsError):
        write_documents(tmp_path, [document])
    with pytest.raises(ValueError, match="document 1 is at position 0"):
        write_documents(tmp_path / "..", [replace(document, number=1)])


def test_the_record_is_read_back(tmp_path: Path) -> None:
    selection, found = selected(documents_of([*prose(4), PERSIAN, ""]), folder=tmp_path / "there")
    (tmp_path / "there").rename(tmp_path / "moved")
    loaded = Selection.load(tmp_path / "moved")
    assert loaded == selection.model_copy(update={"folder": tmp_path / "moved"})
    assert [*loaded.read_documents(0, 2), *loaded.read_documents(2)] == found
    assert list(loaded.read_documents(3, 99)) == found[3:]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"count": "many"}', "\xff"])
def test_a_broken_record_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "selection.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"selection\.json: (no|not a valid) selection"):
        Selection.load(tmp_path)


def test_the_files_are_json_lines_for_others_too(tmp_path: Path) -> None:
    selected(documents_of([PERSIAN, "b"]), folder=tmp_path)
    lines = (tmp_path / "documents-000000.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["text"] for line in lines if line] == [PERSIAN, "b"]
