"""Fonts by every kind of name, damaged fonts, fonts that draw no letters, and scripts that no font covers."""

import logging
import pickle
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest
from fontTools import unicodedata
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables.DefaultTable import DefaultTable
from fontTools.ttLib.ttCollection import TTCollection
from hypothesis import given, settings
from hypothesis import strategies as st

from components.prepare.typesetting import font_files
from components.prepare.typesetting.fonts import FontFace, covered_code_points, find_fonts
from components.prepare.typesetting.script_coverage import UncoveredScript, check_scripts, scripts_error
from components.shared.errors import UserError
from tests.fixtures.built_font import built_font

CARRIED = Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf"
DEJAVU = CARRIED / "DejaVuSans.ttf"
DEJAVU_BYTES = DEJAVU.read_bytes()


def collection(path: Path, *members: Path) -> Path:
    made = TTCollection()
    made.fonts = [TTFont(member) for member in members]
    made.save(path)
    return path


def test_a_file_name_is_found_among_what_matplotlib_carries() -> None:
    assert find_fonts(["DejaVuSans.ttf", "DejaVuSansMono.ttf"]) == [
        FontFace(DEJAVU),
        FontFace(CARRIED / "DejaVuSansMono.ttf"),
    ]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("DejaVu Sans", "DejaVuSans.ttf"),
        ("dejavu  SANS", "DejaVuSans.ttf"),
        ("DejaVu Sans Bold", "DejaVuSans-Bold.ttf"),
        ("DejaVu Serif", "DejaVuSerif.ttf"),
        ("STIXGeneral", "STIXGeneral.ttf"),
    ],
)
def test_a_family_s_name_means_its_regular_face_and_a_full_name_its_own(name: str, file: str) -> None:
    assert find_fonts([name]) == [FontFace(CARRIED / file)]


@pytest.mark.parametrize("fontconfig", [True, False])
def test_a_family_of_the_machine_is_found_with_and_without_fontconfig(
    fontconfig: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/usr/share/fonts/truetype/noto/NotoSansDevanagari-Regular.ttf").is_file():
        pytest.skip("Debian's fonts-noto-core is not installed")
    if not fontconfig:
        monkeypatch.setenv("PATH", "")
    [face] = find_fonts(["Noto Sans Devanagari"])
    assert face.name == "NotoSansDevanagari-Regular"
    assert ord("\u0928") in covered_code_points(face)


def test_nothing_similar_is_put_in_the_place_of_a_font_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"'DejaVu Sanz'.*no such font \(similar: DejaVu Sans"):
        find_fonts(["DejaVu Sanz"])


@given(st.text(max_size=12))
@settings(max_examples=15)
def test_any_name_is_a_font_or_an_error_in_words(name: str) -> None:
    try:
        assert find_fonts([name])
    except UserError as error:
        assert str(error).startswith("font")


def test_a_folder_means_every_font_below_it_in_one_order_and_a_repeated_one_counts_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(DEJAVU, tmp_path / "deep" / "B.TTF")
    built_font(tmp_path / "a.ttf", "abc")
    (tmp_path / "notes.txt").write_text("no font")
    found = find_fonts([str(tmp_path), str(tmp_path / "a.ttf")])
    assert [face.path for face in found] == [tmp_path / "a.ttf", tmp_path / "deep" / "B.TTF"]


def test_of_two_files_of_one_name_the_first_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder, letters in (("first", "abc"), ("second", "xyz")):
        (tmp_path / folder).mkdir()
        built_font(tmp_path / folder / "same.ttf", letters)
    assert find_fonts([str(tmp_path)]) == [FontFace(tmp_path / "first" / "same.ttf")]
    assert str(tmp_path / "second" / "same.ttf") in caplog.text


def test_of_a_collection_the_first_face_is_taken_or_the_numbered_one(tmp_path: Path) -> None:
    first = built_font(tmp_path / "first.ttf", "abc", family="First")
    second = built_font(tmp_path / "second.ttf", "xyz", family="Second")
    path = collection(tmp_path / "both.ttc", first, second)
    [face] = find_fonts([str(path)])
    [numbered] = find_fonts([f"{path}#1"])
    assert (face, numbered) == (FontFace(path), FontFace(path, 1))
    assert (face.name, numbered.name) == ("both", "both#1")
    assert covered_code_points(face) == set(map(ord, "abc"))
    assert covered_code_points(numbered) == set(map(ord, "xyz"))
    with pytest.raises(UserError, match="holds 2 fonts, there is no number 2"):
        find_fonts([f"{path}#2"])
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(path, folder)
    assert find_fonts([str(folder)]) == [FontFace(folder / "both.ttc")]


def test_a_file_may_have_a_number_sign_in_its_name(tmp_path: Path) -> None:
    path = built_font(tmp_path / "odd#1", "abc")
    assert find_fonts([str(path)]) == [FontFace(path)]


def test_fonts_that_python_packages_carry_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = tmp_path / "carrier"
    carrier.mkdir()
    path = built_font(carrier / "Carried-Regular.ttf", "abc", family="Carried By A Package")
    (carrier / "__init__.py").write_text(f"font_files = {{'Carried': {str(path)!r}}}\n")
    distribution = tmp_path / "carrier-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text("[fonts_ttf]\ncarrier = carrier:font_files\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_fonts(["Carried-Regular.ttf", "Carried By A Package"]) == [FontFace(path)]


def test_a_package_that_does_not_load_is_logged_and_takes_nothing_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    distribution = tmp_path / "broken-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text("[fonts_otf]\nbroken = no_such_module:font_files\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_fonts(["DejaVuSans.ttf"]) == [FontFace(DEJAVU)]
    assert "no_such_module:font_files" in caplog.text


def test_system_means_the_text_fonts_of_the_machine(caplog: pytest.LogCaptureFixture) -> None:
    if not font_files.machine_font_files():
        pytest.skip("this machine has no fonts")
    faces = find_fonts(["system"])
    assert [face.path for face in faces] == sorted(face.path for face in faces)
    left_out = set(font_files.machine_font_files()) - {face.path for face in faces}
    assert all(path.stem in caplog.text for path in left_out), "each is logged"
    assert not any(path.stem in ("DejaVuSans", "NotoSans-Regular") for path in left_out)


def test_a_face_is_cheap_to_send_to_another_process() -> None:
    [face] = find_fonts(["DejaVuSans.ttf"])
    assert len(covered_code_points(face)) > 5000
    assert len(pickle.dumps(face)) < 1000


def symbols(path: Path) -> None:
    shutil.copy(CARRIED / "STIXNonUni.ttf", path)


def last_resort(path: Path) -> None:
    shutil.copy(CARRIED / "LastResortHE-Regular.ttf", path)


def without_outlines(path: Path) -> None:
    with TTFont(DEJAVU) as font:
        del font["glyf"], font["loca"]
        font["CBDT"] = DefaultTable("CBDT")
        font["CBDT"].data = bytes(8)
        font.save(path)


def blank(path: Path) -> None:
    built_font(path, "abcdefgh", outlines=False)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (symbols, "symbols and no letters"),
        (last_resort, "same glyph for many letters"),
        (without_outlines, "pictures instead of outlines"),
        (blank, "draws nothing for its letters"),
    ],
)
def test_a_font_that_draws_no_letters_is_refused_by_name_and_left_out_of_a_folder(
    make: Callable[[Path], None], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "unfit.ttf")
    with pytest.raises(UserError, match=f"unfit.*{reason}"):
        find_fonts([str(tmp_path / "unfit.ttf")])
    with pytest.raises(UserError, match="no font with letters"):
        find_fonts([str(tmp_path)])
    good = built_font(tmp_path / "good.ttf", "abc")
    caplog.clear()
    assert find_fonts([str(tmp_path)]) == [FontFace(good)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "unfit" in caplog.text and reason in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"no font", b"ttcf", b"ttcf" + bytes(8), bytes(100), b"\0\1\0\0\xff\xff" * 99]
)
def test_a_file_that_is_no_font_is_refused_alone_and_in_a_folder(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fake.ttf"
    path.write_bytes(content)
    for name in (str(path), str(tmp_path)):
        with pytest.raises(UserError, match=r"fake\.ttf"):
            find_fonts([name])


def test_a_web_font_is_refused(tmp_path: Path) -> None:
    with TTFont(built_font(tmp_path / "made.ttf", "abc")) as font:
        font.flavor = "woff"
        font.save(tmp_path / "made.woff")
    with pytest.raises(UserError, match=r"a web font \(woff\)"):
        find_fonts([str(tmp_path / "made.woff")])


def test_a_table_that_claims_billions_of_characters_is_refused_at_once(tmp_path: Path) -> None:
    path = built_font(tmp_path / "bomb.ttf", "abc")
    with TTFont(path) as font:
        font["cmap"] = DefaultTable("cmap")
        header = struct.pack(">HHHHL", 0, 1, 3, 10, 12)
        font["cmap"].data = header + struct.pack(">HHLLL", 12, 0, 28, 0, 1) + struct.pack(">LLL", 0, 0xFFFFFFF0, 0)
        font.save(path)
    with pytest.raises(UserError, match="code points that do not exist"):
        find_fonts([str(path)])


@given(st.integers(0, len(DEJAVU_BYTES) - 4))
@settings(max_examples=40)
def test_a_cut_font_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "cut.ttf"
    path.write_bytes(DEJAVU_BYTES[:length])
    with pytest.raises(UserError, match=r"cut\.ttf"):
        find_fonts([str(path)])
    path.unlink()


@given(st.lists(st.tuples(st.integers(0, len(DEJAVU_BYTES) - 1), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=60)
def test_a_font_with_flipped_bits_is_refused_or_covers_what_it_did(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    damaged = bytearray(DEJAVU_BYTES)
    for place, bits in flips:
        damaged[place] ^= bits
    path = tmp_path_factory.mktemp("flipped") / "flipped.ttf"
    path.write_bytes(damaged)
    try:
        [face] = find_fonts([str(path)])
        # Changes that no checksum detects: padding, search fields of the directory, and flips that cancel each other.
        assert covered_code_points(face) == covered_code_points(FontFace(DEJAVU))
    except UserError as error:
        assert "flipped.ttf" in str(error)
    path.unlink()


@given(st.integers(12 + 16 * 30, len(DEJAVU_BYTES) - 4), st.integers(0, 7))
@settings(max_examples=40)
def test_one_flipped_bit_in_a_table_is_seen(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    with TTFont(DEJAVU, lazy=True) as font:
        tables = [(entry.offset, entry.length, tag) for tag, entry in font.reader.tables.items()]
    tag = next((tag for offset, length, tag in tables if offset <= place < offset + length), None)
    if tag in (None, "head"):
        return
    damaged = bytearray(DEJAVU_BYTES)
    damaged[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "flipped.ttf"
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"flipped\.ttf"):
        find_fonts([str(path)])
    path.unlink()


@dataclass
class Texts:
    """Prepare's counts over its documents: how many use a script, and which of its characters."""

    documents: int
    scripts: Counter[str]
    characters: dict[str, str]


def counted(*texts: str) -> Texts:
    scripts = [{unicodedata.script(letter) for letter in text} for text in texts]
    every = sorted(set("".join(texts)))
    return Texts(
        len(texts),
        Counter(script for of_text in scripts for script in of_text),
        {script: "".join(c for c in every if unicodedata.script(c) == script) for script in set().union(*scripts)},
    )


def uncovered_by_dejavu(texts: Texts) -> list[UncoveredScript]:
    return check_scripts(texts.scripts, texts.characters, find_fonts(["DejaVuSans.ttf"]))


def test_scripts_without_a_font_are_reported_with_their_documents() -> None:
    texts = counted("नमस्ते", "नमस्ते दुनिया", "你好", "مرحبا שלום Hello Привет Γειά 12 — !?")
    found = uncovered_by_dejavu(texts)
    assert [(script.name, script.documents) for script in found] == [("Devanagari", 2), ("Han", 1)]
    assert found[1].letters == "你好"


def test_a_few_rare_letters_do_not_make_a_script_uncovered() -> None:
    assert uncovered_by_dejavu(counted("plain words and \U0001df04, a Latin letter that DejaVu lacks")) == []


def test_the_error_lists_scripts_letters_and_where_a_font_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(font_files, "_FOLDERS", (tmp_path,))
    texts = counted("नमस्ते", "你好", "\U0001e290\U0001e291", "مرحبا")
    plain = find_fonts([str(built_font(tmp_path / "abc.ttf", "abc"))])
    found = check_scripts(texts.scripts, texts.characters, plain)
    message = str(scripts_error(found, texts.documents))
    assert "Devanagari (1 of 4 documents, e.g. त न म स)" in message
    assert "for Devanagari install Debian's fonts-noto-core and add 'Noto Sans Devanagari' to fonts" in message
    assert "for Han install Debian's fonts-wqy-microhei" in message
    assert "for Toto add a font of your own" in message
    assert "for Arabic add 'DejaVuSans.ttf' to fonts" in message, "matplotlib carries it"


@given(st.lists(st.text(max_size=40), max_size=5))
@settings(max_examples=40)
def test_what_is_reported_stands_in_the_documents_and_in_no_font(texts: list[str]) -> None:
    covered = covered_code_points(FontFace(DEJAVU))
    for script in uncovered_by_dejavu(counted(*texts)):
        assert 1 <= script.documents <= len(texts)
        assert script.letters
        assert all(letter in "".join(texts) and ord(letter) not in covered for letter in script.letters)
