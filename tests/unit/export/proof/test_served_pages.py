"""``deepsynth verify --vllm``: what a real vLLM reads, and what the verdict says of readings that differ."""

import json
import os
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image, ImageDraw

from components.export.proof.comparison import ServedReading, verdict_of_readings
from components.export.proof.page_tiles import other_tiles
from components.export.proof.served_pages import Proof, prove_at, served_package
from components.export.proof.vllm_client import VllmServer
from components.export.step import run
from components.shared.digests import sha256_folder
from components.shared.errors import UserError
from components.shared.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from components.shared.reading.transcriber import StepByStep
from components.shared.versions import software_versions
from tests.fixtures.dataset_fixture import Page, write_dataset
from tests.fixtures.export_fixture import TEXTS, export_config, make_sources, write_evaluation
from tests.fixtures.training_record import training_record

VLLM_PYTHON = Path(os.environ.get("DEEPSYNTH_VLLM_PYTHON") or Path(__file__).parents[4] / ".vllm-env/bin/python")
CLOSED = VllmServer("http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def reading(text: str, scores: list[dict[int, float]]) -> StepByStep:
    return StepByStep(text, [max(one, key=lambda token: one[token]) for one in scores], scores)


OURS = reading("ab", [{1: 2.0, 2: 1.0}, {3: 1.00, 4: 0.99}])
BASE = reading("xy", [{2: 2.0, 1: 1.0}, {5: 1.0, 4: 0.5}])


def test_equal_texts_are_proof_only_if_the_base_reads_otherwise() -> None:
    same = verdict_of_readings([ServedReading("a", OURS, OURS, BASE, BASE)])
    assert (same.state, same.equal, same.telling, same.noise) == ("proven", ["a"], ["a"], 0.0)
    # An adapter whose modules vLLM skipped, on a page that adapter and base read alike.
    skipped = verdict_of_readings([ServedReading("a", BASE, BASE, BASE, BASE)])
    assert skipped.state == "not shown"
    assert "give a page that base and adapter read differently" in str(skipped)


def test_a_skipped_adapter_differs() -> None:
    verdict = verdict_of_readings([ServedReading("a", OURS, BASE, BASE, BASE)])
    assert (verdict.state, verdict.differing) == ("differs", ["a"])


def test_texts_that_part_where_rounding_decided_are_ties() -> None:
    rounded = reading("aX", [{1: 1.98, 2: 1.0}, {4: 1.00, 3: 0.99}])
    verdict = verdict_of_readings([ServedReading("a", OURS, rounded, BASE, BASE)])
    assert (verdict.state, verdict.ties, round(verdict.noise, 3)) == ("proven", ["a"], 0.02)
    far = reading("aX", [{1: 2.0, 2: 1.0}, {4: 3.00, 3: 0.99}])
    assert verdict_of_readings([ServedReading("a", OURS, far, BASE, BASE)]).state == "differs"


def test_of_a_whole_model_no_base_is_told_and_ties_are_accepted() -> None:
    same = verdict_of_readings([ServedReading("a", OURS, OURS)])
    assert str(same) == "proven: 1 of 1 pages read alike, letter by letter; scores move by at most 0"
    rounded = reading("aX", [{1: 1.98, 2: 1.0}, {4: 1.00, 3: 0.99}])
    assert verdict_of_readings([ServedReading("a", OURS, rounded)]).ties == ["a"]
    another = reading("aX", [{1: 1.5, 2: 1.0}, {4: 1.00, 3: 0.99}])  # 0.5 of noise: half of what parts 1 and 2
    assert verdict_of_readings([ServedReading("a", OURS, another)]).differing == ["a"]


def test_pages_that_vllm_cuts_into_other_tiles_are_named() -> None:
    images = DeepseekOcrImageProcessor()
    pages = {"wide.png": (1920, 1080), "square.png": (1400, 1400), "a4.png": (1240, 1754), "small.png": (600, 640)}
    found = other_tiles("DeepseekOCRForCausalLM", images, pages)
    assert found == ["wide.png: 4x2 here, 2x1 there", "square.png: 3x3 here, 2x2 there"]
    verdict = verdict_of_readings([ServedReading("wide.png", OURS, OURS, BASE, BASE)], found)
    assert "vLLM cuts other tiles (wide.png: 4x2 here, 2x1 there, square" in str(verdict)
    images.max_patches = 6
    assert other_tiles("DeepseekOCRForCausalLM", images, pages) == []
    assert other_tiles("Qwen2VLForConditionalGeneration", None, pages) == []


def test_a_package_without_files_for_vllm_and_a_server_that_is_not_there(tmp_path: Path) -> None:
    package = run(export_config(make_sources(tmp_path / "made"), tmp_path / "package")).archive
    with pytest.raises(UserError, match=r"no files for vLLM.*export with serving: \[vllm\]"):
        prove_at(Proof(package), CLOSED)
    with pytest.raises(UserError, match="vLLM does not answer at /v1/models"):
        CLOSED.models()


SERVING = {
    "vllm_class": "Qwen2VLForConditionalGeneration",
    "adapter": True,
    "max_lora_rank": 8,
    "lora_target_modules": [],
    "own_config": False,
    "prompt": "Read.",
}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    ("serving", "page", "said"),
    [
        (SERVING, EPS, r"example_page\.png: cannot be read as a picture \(cannot identify image file"),
        ({**SERVING, "lora_target_modules": ["--trust-remote-code"]}, EPS, "lora_target_modules holds an option"),
        ({**SERVING, "max_lora_rank": "--x"}, EPS, r"serving\.json: cannot be read \(max_lora_rank: "),
        ([SERVING], EPS, r"serving\.json: holds no mapping"),
    ],
)
def test_what_a_strangers_package_brings_is_looked_at(serving: object, page: bytes, said: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "reader.zip", "w") as archive:
        archive.writestr("reader/vllm/serving.json", json.dumps(serving))
        archive.writestr("reader/example_page.png", page)
    with pytest.raises(UserError, match=said):
        prove_at(Proof(tmp_path / "reader.zip"), CLOSED)


def drawn_page(path: Path) -> Path:
    page = Image.new("RGB", (500, 600), "white")  # vLLM would centre it one pixel further right: page_margins.py
    for line in range(8):
        text = f"Hello boat number {line} on the water"
        ImageDraw.Draw(page).text((20, 20 + 40 * line), text, fill="black", font_size=28)
    page.save(path)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="no vLLM: run make vllm-env, or set DEEPSYNTH_VLLM_PYTHON")
def test_vllm_reads_a_deepseek_ocr2_package_as_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fixtures.full_size_deepseek import save_adapter, save_full_size_deepseek_ocr2

    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    save_full_size_deepseek_ocr2(tmp_path / "base")
    save_adapter(tmp_path / "base", tmp_path / "adapter")
    digest = write_dataset(tmp_path / "dataset", [Page(text, f"document-{text}") for text in TEXTS])
    settings = {"base_model": str(tmp_path / "base"), "revision": None, "learning_rate": 0.01, "peft": "lora"}
    facts = {"base_model": settings["base_model"], "dataset_digest": digest, "config": settings}
    training_record(**facts, versions=software_versions()).write(tmp_path / "adapter")
    write_evaluation(tmp_path / "evaluation", digest, sha256_folder(tmp_path / "adapter"))
    package = run(export_config(tmp_path, tmp_path / "package", serving=["vllm"])).archive
    proof = Proof(package, (drawn_page(tmp_path / "page.png"),), base_model=tmp_path / "base", max_new_tokens=16)
    with served_package(proof, VLLM_PYTHON) as server:
        verdict = prove_at(proof, server)
        given = ["--vllm", server.address, "--page", str(proof.pages[0]), "--base-model", str(proof.base_model)]
        command = [sys.executable, "-m", "pipelines.command_line", "verify", str(package), *given]
        said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "proven: 1 of 1 pages read alike" in " ".join(said.stdout.split())
    assert verdict.state == "proven", str(verdict)
    assert verdict.equal == verdict.telling == ["page.png"]
    assert verdict.noise < 1e-2


def test_a_redirect_is_an_error_and_takes_the_key_nowhere(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/other")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match="302"):
            VllmServer(f"http://127.0.0.1:{server.server_port}", "the-key").models()
        server.shutdown()
    assert seen == ["Bearer the-key"]
