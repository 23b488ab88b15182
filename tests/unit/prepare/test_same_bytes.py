"""The same page gives the same bytes: in a used process, with busy threads, on AVX2 and AVX-512."""

import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from isal import isal_zlib

from components.prepare.config import PrepareConfig
from components.prepare.drawing import document_drawing
from components.prepare.drawing.reference_pages import pixel_variant
from components.prepare.output.png import encode_png
from components.prepare.step import run
from components.prepare.workers.memory_reuse import keep_freed_memory
from components.shared.errors import UserError
from tests.unit.prepare.drawn_bytes import page_digest, page_digests

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction sets are those of x86-64")

PAGES = 6
NO_AVX512 = {
    "OPENCV_CPU_DISABLE": "AVX512-SKX",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ",
    "PYTHONMALLOC": "malloc",
}


def in_a_fresh_process(pages: int = PAGES, **environment: str) -> dict[str, str]:
    command = [sys.executable, "-m", "tests.unit.prepare.drawn_bytes", str(pages)]
    answer = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert answer.returncode == 0, answer.stderr
    digests: dict[str, str] = json.loads(answer.stdout)
    return digests


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return in_a_fresh_process()


@contextmanager
def busy_threads() -> Iterator[None]:
    """Two threads that deflate, convolve and fill memory with the GIL released most of the time."""
    ended = threading.Event()

    def work(seed: int) -> None:
        chance = np.random.default_rng(seed)
        while not ended.is_set():
            noise = chance.integers(0, 255, (300, 400), np.uint8)
            isal_zlib.compress(noise, seed % 3)
            cv2.GaussianBlur(noise, (0, 0), 1.0 + seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def dirty_heap(chance: random.Random) -> None:
    """Leave freed blocks of the sizes that encoders use, full of old content."""
    keep_freed_memory()
    blocks = [bytearray(chance.randbytes(1 << chance.randint(10, 21))) for _ in range(6)]
    del blocks


def test_a_used_process_beside_busy_threads_draws_what_a_fresh_one_does(expected: dict[str, str]) -> None:
    chance = random.Random(3)
    with busy_threads():
        for _ in range(2):
            dirty_heap(chance)
            assert page_digests(PAGES) == expected


def test_a_machine_without_avx512_draws_the_same(expected: dict[str, str]) -> None:
    assert in_a_fresh_process(**NO_AVX512) == expected


def test_the_thread_that_imports_and_the_thread_that_draws_may_differ(expected: dict[str, str]) -> None:
    """OpenCV's switch for Intel's primitives applies per thread."""
    program = (
        "import importlib, threading, json\n"
        "load = threading.Thread(target=importlib.import_module, args=('tests.unit.prepare.drawn_bytes',))\n"
        "load.start(); load.join()\n"
        f"print(json.dumps(importlib.import_module('tests.unit.prepare.drawn_bytes').page_digests({PAGES})))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == expected


def test_the_deflate_stream_depends_on_the_pixels_alone() -> None:
    """Different alignments, neighbouring bytes, heap content and sizes, in random order."""
    chance = random.Random(11)
    pages = [
        np.frombuffer(chance.randbytes(64) * 4000, np.uint8)[: 420 * high].reshape(high, 420) for high in (28, 112)
    ]
    pages += [np.where(np.indices((331, 257)).sum(0) % 53 < 9, 20, 255).astype(np.uint8)]
    wanted = [encode_png(page) for page in pages]
    for _ in range(60):
        dirty_heap(chance)
        place = chance.randrange(len(pages))
        page = pages[place]
        memory = np.frombuffer(bytearray(chance.randbytes(page.size + 8192)), np.uint8)
        start = chance.randrange(4096)
        moved = memory[start : start + page.size].reshape(page.shape)
        moved[:] = page
        assert encode_png(moved) == wanted[place]


def pages_of_one_period(count: int) -> Iterator[np.ndarray]:
    """Yield small pages whose bytes repeat after 4, the filter byte of each row included."""
    for levels in np.random.default_rng(19).integers(0, 256, (count, 3), np.uint8):
        yield np.tile(levels, (128, 1))


def test_the_stream_does_not_depend_on_where_the_encoder_lies_in_memory() -> None:
    """The addresses of ISA-L's state differ between threads that run at the same time."""
    digests = []

    def encode() -> None:
        digest = hashlib.sha256()
        for page in pages_of_one_period(20_000):
            digest.update(encode_png(page))
        digests.append(digest.hexdigest())

    threads = [threading.Thread(target=encode) for _ in range(2)]
    for thread in threads:
        thread.start()
    encode()
    for thread in threads:
        thread.join()
    assert len(digests) == 3 and len(set(digests)) == 1


def test_this_processor_is_on_the_reference_path_and_one_without_avx2_is_told_apart() -> None:
    program = "from components.prepare.drawing.reference_pages import pixel_variant; print(pixel_variant())"
    variants = {}
    for name, environment in {"here": {}, "no AVX2": {"OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2"}}.items():
        answer = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ | environment
        )
        variants[name] = answer.stdout.strip()
    assert variants["here"] == pixel_variant() == ""
    assert len(variants["no AVX2"]) == 8


def source(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"number {number} " * 9}) + "\n" for number in range(12)))
    return path


def test_a_dataset_of_another_variant_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    command = [sys.executable, "-m", "components.prepare", "--source", str(source(tmp_path)), "--workers", "1"]
    command += ["--output_dir", str(tmp_path / "data")]
    answer = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2"}
    )
    assert answer.returncode == 0, answer.stderr
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert " pixels-" in manifest["layout_engine"]
    assert "draws or encodes pages differently" in answer.stderr


def test_a_process_that_draws_differently_ends_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.setattr(document_drawing, "pixel_variant", lambda: "0badcafe")  # a faulty worker's digest
    with pytest.raises(UserError, match="variant 0badcafe"):
        run(PrepareConfig(output_dir=tmp_path / "data", source=str(source(tmp_path)), workers=1))
    assert not (tmp_path / "data").exists()


@pytest.mark.slow  # 100 repeats, half a minute
def test_repeats_in_random_order_give_the_same_bytes(expected: dict[str, str]) -> None:
    chance = random.Random(17)
    with busy_threads():
        for repeat in range(100):
            dirty_heap(chance)
            drawn = page_digest(number := chance.choice((0, 2, 3, 5)))  # the small ones
            assert drawn.items() <= expected.items(), f"repeat {repeat}, page {number}"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs Debian's qemu-user")
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell", "EPYC"])
def test_an_emulated_processor_deflates_the_same(tmp_path: Path, processor: str) -> None:
    page = np.frombuffer(random.Random(5).randbytes(50) * 3000, np.uint8).reshape(300, 500)
    (tmp_path / "rows").write_bytes(np.insert(page, 0, 0, axis=1).tobytes())
    program = (
        f"import sys; sys.path.insert(0, {str(Path(isal_zlib.__file__).parents[1])!r})\n"
        "from isal import isal_zlib\n"
        "rows, stream = open(sys.argv[1], 'rb').read(), isal_zlib.compressobj(1)\n"
        "parts = [stream.compress(rows[:16]), stream.flush(isal_zlib.Z_SYNC_FLUSH), stream.compress(rows[16:])]\n"
        "sys.stdout.buffer.write(b''.join([*parts, stream.flush()]))"
    )
    interpreter = Path(sys.executable).resolve()
    command = ["qemu-x86_64", "-cpu", processor, str(interpreter), "-S", "-c", program, str(tmp_path / "rows")]
    answer = subprocess.run(command, capture_output=True, check=True)
    assert encode_png(page)[41:-16] == answer.stdout, "the content of the IDAT chunk"
