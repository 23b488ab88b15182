"""Untrusted adapters and bases: other files in their folders are not run or packed, and links are not followed."""

import json
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.export.package.model_files import model_files
from components.export.step import run
from components.shared.artifacts.dataset_manifest import read_manifest
from components.shared.digests import sha256_folder
from components.shared.errors import UserError
from components.shared.models.adapter_loading import check_fine_tuned_weights
from components.shared.models.model_loading import load_model
from tests.fixtures.dataset_fixture import drawn
from tests.fixtures.export_fixture import export_config, make_sources, write_evaluation
from tests.fixtures.pdf_files import pdf_drawing_itself, write_pdf

CODE = "from pathlib import Path\nPath({marker!r}).touch()\nraise SystemExit('foreign code ran')\n"
MODULES = ("json.py", "hashlib.py", "argparse.py", "torch.py", "peft.py", "sitecustomize.py")


@pytest.fixture(scope="module", autouse=True)
def _no_tracking() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", "off")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("made"))


def hostile(source: Path, target: Path) -> Path:
    """Copy a model's folder and add code, pickles and a link to a secret; the code leaves ``ran`` beside it."""
    shutil.copytree(source, target)
    marker = str(target.with_name("ran"))
    for name in MODULES:
        (target / name).write_text(CODE.format(marker=marker))
    secret = target.with_name(f"{target.name}-id_rsa")
    secret.write_text("secret key")
    (target / "notes.txt").symlink_to(secret)
    (target / "LICENSE").write_text("as it was")
    torch.save({"weight": torch.zeros(2)}, target / "pytorch_model.bin")
    for code in ("page_reader/evil.py", "page_reader/pictures.py"):
        (target / code).parent.mkdir(exist_ok=True)
        (target / code).write_text(CODE.format(marker=marker))
    (target / "nested").mkdir()
    (target / "nested" / "config.json").write_text("{}")
    return target


def exported(made: Path, folder: Path, adapter: Path, **changes: Any) -> list[str]:
    """Export ``adapter``, unpack the zip to ``folder`` and return the names of its files."""
    evaluation = folder / "evaluation"
    write_evaluation(evaluation, read_manifest(made / "dataset").digest, sha256_folder(adapter))
    values = {"adapter_dir": adapter, "evaluation_dir": evaluation, **changes}
    archive = run(export_config(made, folder / "out", **values)).archive
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
        return [name.removeprefix("reader/") for name in packed.namelist()]


@pytest.mark.slow
def test_code_pickles_and_links_of_an_adapter_stay_out(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = hostile(made / "adapter", tmp_path / "adapter")
    base = hostile(made / "base", tmp_path / "base")
    with caplog.at_level(logging.WARNING):
        names = exported(made, tmp_path, adapter, base_model=str(base), include_base_model=True, verify=True)
    assert not (tmp_path / "ran").exists(), "the check of the package ran the adapter's code"
    assert {name for name in names if name.endswith(".py") and "/" not in name} == {"inference.py", "mlflow_model.py"}
    assert not [name for name in names if "evil" in name]
    assert not [name for name in names if "notes" in name or "pytorch_model" in name or "nested" in name]
    assert {"adapter_model.safetensors", "LICENSE", "base_model/LICENSE", "base_model/model.safetensors"} <= set(names)
    assert "secret key" not in "".join(path.read_text("utf-8", "replace") for path in tmp_path.glob("reader/**/*.*"))
    assert "left out of the package" in caplog.text and "json.py" in caplog.text and "notes.txt" in caplog.text


@pytest.mark.slow
def test_a_module_beside_the_script_is_not_imported_even_without_p(made: Path, tmp_path: Path) -> None:
    names = exported(made, tmp_path, shutil.copytree(made / "adapter", tmp_path / "adapter"), include_base_model=True)
    assert "inference.py" in names
    for name in (*MODULES, "page_reader/json.py", "page_reader/torch.py", "page_reader.py"):
        (tmp_path / "reader" / name).write_text(CODE.format(marker=str(tmp_path / "ran")))
    (tmp_path / "page.png").write_bytes(drawn("one boat"))
    command = [sys.executable, "inference.py", str(tmp_path / "page.png")]
    answer = subprocess.run(command, cwd=tmp_path / "reader", capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert not (tmp_path / "ran").exists()
    assert not [*(tmp_path / "reader").rglob("__pycache__")], "the lineage names every file of the package"


@pytest.mark.slow
def test_the_script_reads_folders_and_pdfs_and_writes_json_lines(made: Path, tmp_path: Path) -> None:
    exported(made, tmp_path, shutil.copytree(made / "adapter", tmp_path / "adapter"), include_base_model=True)
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "b.png").write_bytes(drawn("one boat"))
    (pages / "notes.txt").write_text("no page")
    write_pdf(pages / "a.pdf", ["one", "two"], size=(1.0, 0.5))
    command = [sys.executable, "inference.py", "--jsonl", "--max_new_tokens", "2", str(pages), str(pages / "b.png")]
    answer = subprocess.run(command, cwd=tmp_path / "reader", capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    read = [(Path(line["file"]).name, line["page"]) for line in lines]
    assert read == [("a.pdf", 1), ("a.pdf", 2), ("b.png", 1), ("b.png", 1)]
    assert lines[2]["text"] == lines[3]["text"] and all(isinstance(line["text"], str) for line in lines)
    (pages / "broken.pdf").write_bytes(b"%PDF-1.4 cut")
    (pages / "draws-itself.pdf").write_bytes(pdf_drawing_itself())
    for page, said in (
        (pages / "broken.pdf", "cannot be read as a PDF"),
        (pages / "draws-itself.pdf", "more than 2 GiB of memory"),
        (made / "evaluation", "no pictures or PDFs"),
    ):
        refused = subprocess.run([*command[:2], str(page)], cwd=tmp_path / "reader", capture_output=True, text=True)
        assert refused.returncode == 2 and said in refused.stderr.strip().splitlines()[-1]


def test_weights_that_are_a_link_out_of_the_folder_are_refused(made: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(made / "adapter", tmp_path / "adapter")
    (adapter / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    (adapter / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"tokenizer\.json: is a link to a file outside of its folder"):
        exported(made, tmp_path, adapter)
    assert not (tmp_path / "out").exists()


def test_the_links_of_the_hubs_own_cache_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--me--base" / "snapshots" / "abc"
    blobs = tmp_path / "models--me--base" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1234").write_text("{}")
    (snapshot / "config.json").symlink_to(Path("../../blobs/1234"))
    assert list(model_files(snapshot, with_code=False)) == ["config.json"]
    (tmp_path / "outside").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link"):
        model_files(snapshot, with_code=False)


def test_code_is_packed_only_where_it_is_trusted(tmp_path: Path) -> None:
    for name in ("config.json", "modeling_mine.py", "run.sh"):
        (tmp_path / name).write_text("{}")
    assert list(model_files(tmp_path, with_code=False)) == ["config.json"]
    assert list(model_files(tmp_path, with_code=True)) == ["config.json", "modeling_mine.py"]


def test_pickled_weights_are_refused_before_they_are_read(made: Path, tmp_path: Path) -> None:
    """Loading the pickle would create a file."""
    model = shutil.copytree(made / "base", tmp_path / "model")
    (model / "model.safetensors").unlink()
    torch.save(Leaves(tmp_path / "ran"), model / "pytorch_model.bin")
    for load in (
        lambda: load_model(str(model), dtype=torch.float32, device=torch.device("cpu")),
        lambda: check_fine_tuned_weights(model),
    ):
        with pytest.raises(UserError, match=r"the weights are pickles \(pytorch_model\.bin\)"):
            load()
    assert not (tmp_path / "ran").exists()


class Leaves:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)
