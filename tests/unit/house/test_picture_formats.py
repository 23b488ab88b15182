"""No picture of a stranger reaches one of Pillow's forty formats that nobody needs; one of them starts a program."""

import ast
import io
from pathlib import Path

import pytest
from PIL import Image

from components.shared.datasets.page_decoding import decode_gray
from components.shared.datasets.shard_reader import Sample

HOUSE = Path(__file__).parents[3]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def opening_calls(code: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) in ("Image.open", "PIL.Image.open")]


def names_formats(call: ast.Call) -> bool:
    return any(argument.arg == "formats" for argument in call.keywords)


def test_whoever_opens_a_picture_names_the_formats() -> None:
    files = [path for room in ("components", "pipelines") for path in (HOUSE / room).rglob("*.py")]
    calls = {path: opening_calls(path.read_text(encoding="utf-8")) for path in files}
    assert sum(map(len, calls.values())) >= 5
    assert not [str(path) for path, found in calls.items() if not all(map(names_formats, found))]
    assert not all(map(names_formats, opening_calls("from PIL import Image\nImage.open('a.eps')")))


def test_an_eps_in_a_shard_is_no_picture() -> None:
    assert Image.open(io.BytesIO(EPS)).format == "EPS"  # Pillow alone would start Ghostscript for it
    sample = Sample("page", EPS, {"text": "x"})
    for read in (lambda: sample.image, lambda: sample.gray, lambda: decode_gray(EPS)):
        with pytest.raises(OSError, match="cannot identify image file"):
            read()
