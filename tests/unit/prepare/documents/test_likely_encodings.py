"""The encoding that an error names for a short text is the one that it is in."""

import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from components.prepare.documents.document import Unreadable
from components.prepare.documents.text_decoding import WrongEncodingError, decode_text, likely_encoding
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.opening import read_documents

TEXTS = {
    "cp1252": [
        "El niño comió piñas.",
        "São Paulo é uma cidade. Ação e coração não são iguais.",
        "GrüßeGrüßeGrüße",
        "Le café est fermé à l'heure où l'été s'achève.",
        "Größe: 12 mm",
        "¿Qué? ¡Sí! «España»",
        "Ça va? “Oui” – dit-elle… 5 €",
        "Tromsø, Ålesund og Bærum",
        "15 °C, ½ Liter",
    ],
    "cp1250": ["Zażółć gęślą jaźń", "Příliš žluťoučký kůň úpěl ďábelské ódy"],
    "cp1251": ["Привет, как дела? Это русский текст."],
    "koi8_r": ["Привет, как дела? Это русский текст."],
    "cp1253": ["Αυτό είναι ένα ελληνικό κείμενο."],
    "cp932": ["これは日本語の文章です。", "日本語テキスト"],
    "euc_jp": ["これは日本語の文章です。", "日本語テキスト", "東京は日本の首都である。"],
    "cp949": ["이것은 한국어 문장입니다.", "안녕하세요 여러분"],
    "gb18030": ["这是一个中文句子,用来测试编码。"],
}


@pytest.mark.parametrize(("encoding", "text"), [(encoding, text) for encoding in TEXTS for text in TEXTS[encoding]])
def test_the_likely_encoding_of_a_short_text_is_its_own(encoding: str, text: str) -> None:
    content = text.encode(encoding)
    assert likely_encoding(content) == encoding
    with pytest.raises(WrongEncodingError, match=f"set encoding to {encoding}"):
        decode_text(content)
    assert decode_text(content, encoding) == text


def test_a_marker_is_bounded_whatever_a_name_holds(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, target in (("b.txt", "/" * 50_000), ("n" * 50_000 + ".txt", "nowhere"), ("m" * 50_000, "")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = (tarfile.SYMTYPE, target) if target else (tarfile.REGTYPE, "")
            archive.addfile(info, BytesIO())
    items = list(read_documents(SourceSettings(source=str(tmp_path / "a.tar"), on_unreadable="skip")))
    assert len(items) == 3
    for item in items:
        assert isinstance(item, Unreadable)
        assert len(item.source_id) <= 500 and len(item.problem) <= 500
        assert item.source_id.startswith("a.tar:")
    assert items[0].problem.startswith("a link to ///") and items[0].problem.endswith("which is not in the archive")
