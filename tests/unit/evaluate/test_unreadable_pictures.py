"""Pages whose picture Pillow refuses count as failed pages; the evaluation is written anyway."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run
from components.shared.datasets.shard_reader import Sample
from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl
from tests.fixtures.dataset_fixture import Page, drawn, write_dataset


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """Return an 8-bit grey PNG with a valid header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


BLACK = zlib.compress(b"\x01" + bytes(28) + b"\x00" * 29 * 27)
REFUSED = {
    "DecompressionBombError": png(20_000, 20_000, chunk(b"IDAT", b"")),
    "SyntaxError": png(28, 28, chunk(b"IDAT", BLACK[:8]), chunk(b"\x00\x01\x02\x03", b"")),
    "ValueError": png(28, 28, chunk(b"gAMA", b""), chunk(b"IDAT", BLACK)),
    "UnidentifiedImageError": b"not a picture",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    save_blank_paddleocr_vl(folder)
    return folder


@pytest.fixture
def a_tesseract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named tesseract that returns the same text for every page, so that every machine has this row."""
    program = tmp_path / "bin" / "tesseract"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\ncase "$1" in\n--version) echo tesseract 5 ;;\n--list-langs) printf "List:\\neng\\n" ;;\n'
        "*) cat > /dev/null; echo read ;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


@pytest.mark.parametrize("reason", REFUSED)
def test_a_page_that_pillow_refuses_fails_alone(
    base: Path, tmp_path: Path, a_tesseract: None, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    pages = [Page("a good page", "one"), Page("a bad page", "two", image_bytes=REFUSED[reason]), Page("good", "three")]
    write_dataset(tmp_path / "dataset", pages)
    found = run(
        EvaluateConfig(
            dataset_dir=tmp_path / "dataset",
            base_model=str(base),
            output_dir=tmp_path / "evaluation",
            max_new_tokens=4,
            bootstrap_resamples=100,
        )
    )
    rows = {row.name: row for row in found.report.rows}
    assert rows["base"].failure_rate == rows["tesseract"].failure_rate == 1 / 3
    samples = pq.read_table(found.folder / "samples.parquet").to_pylist()
    for model in ("base", "tesseract"):
        errors = [page["error"] for page in samples if page["model"] == model]
        assert errors[0] is errors[2] is None and reason in errors[1]
    html = (found.folder / "report.html").read_text()
    assert html.count("The picture cannot be decoded.") == 1 and html.count("data:image/webp;base64,") == 2


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.parametrize("read", [lambda page: page.gray, lambda page: page.image], ids=["gray", "image"])
def test_whatever_pillow_raises_is_an_os_error_of_the_page(read: Callable[[Sample], object], reason: str) -> None:
    assert read(Sample("key", drawn("a page"), {})) is not None
    with pytest.raises(OSError, match=r"picture|cannot identify"):
        read(Sample("key", REFUSED[reason], {}))
