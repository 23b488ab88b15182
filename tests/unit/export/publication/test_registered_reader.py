"""A package and a registered version are MLflow models that read pictures, as the packaged script does."""

import base64
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import pandas
import psutil
import pytest
from PIL import Image

from components.export.lineage.findings import Reach
from components.export.lineage.integrity import check_integrity
from components.export.step import run
from components.shared.models.adapter_loading import adapter_kind
from components.shared.tracking.model_registry import champion_of
from components.shared.tracking.registered_files import download
from tests.fixtures.dataset_fixture import drawn
from tests.fixtures.export_fixture import export_config, make_sources, write_gate
from tests.fixtures.mlflow_server import mlflow_server

PAGES = [drawn("one boat"), drawn("four boats and a long line")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("made"))


def unpacked(made: Path, folder: Path, **changes: object) -> Path:
    archive = run(export_config(made, folder / "out", max_new_tokens=6, **changes)).archive
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder / "reader"


def read_by_the_script(package: Path, pictures: list[Path]) -> list[str]:
    command = [sys.executable, "-X", "importtime", "inference.py", "--jsonl", *map(str, pictures)]
    answer = subprocess.run(command, cwd=package, capture_output=True, check=True)
    imported = [line.rpartition(b"|")[2].strip() for line in answer.stderr.splitlines()]
    assert b"transformers.utils" in imported
    unused = (b"sklearn.", b"bitsandbytes.", b"mlflow.", b"pypdfium2.")  # an import that fails is listed too, alone
    assert not [module for module in imported if module.startswith(unused)]
    return [json.loads(line)["text"] for line in answer.stdout.splitlines()]


@pytest.mark.slow
def test_a_package_is_an_mlflow_model_that_reads_as_its_script_does(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    package = unpacked(made, tmp_path)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, page in zip(paths, PAGES, strict=True):
        path.write_bytes(page)
    texts = read_by_the_script(package, paths)
    assert texts[0] and texts[0] != texts[1], "two empty texts would prove nothing"
    model = mlflow.pyfunc.load_model(str(package))
    coded = [base64.b64encode(page).decode() for page in PAGES]
    frame = pandas.DataFrame({"image": PAGES, "number": [1, 2]})
    for given in (PAGES, [str(path) for path in paths], coded, [f"data:image/png;base64,{coded[0]}", PAGES[1]], frame):
        assert model.predict(given) == texts
    assert model.predict(PAGES[1]) == texts[1:]
    assert len(model.predict(model.input_example)) == 1
    assert base64.b64decode(model.input_example[0]) == (package / "example_page.png").read_bytes()
    assert model.metadata.get_input_schema() and model.metadata.get_output_schema()
    wrongs = {"no such file.png": "neither a file here nor base64", 3: "int, not bytes", b"x": "cannot be read as a"}
    for wrong, said in wrongs.items():
        with pytest.raises(Exception, match=f"picture 1: .*{said}"):
            model.predict([PAGES[0], wrong])
    alone = mlflow.pyfunc.load_model(str(package), model_config={"read_paths": False})
    with pytest.raises(Exception, match="neither a file here nor base64"):
        alone.predict([str(paths[0])])


def test_a_hostile_picture_is_one_error_and_the_server_reads_on(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures are opened in a process with limits, from Python and behind the server of ``mlflow models serve``."""
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    package = unpacked(made, tmp_path)
    model = mlflow.pyfunc.load_model(str(package), model_config={"picture_gib": 0.1})
    (tmp_path / "large.png").write_bytes(transparent(7000, 7000))  # 196 MB of RGBA
    hostile = {
        "large": ((tmp_path / "large.png").read_bytes(), r"more than 0\.1 GiB of memory"),
        "large file": (str(tmp_path / "large.png"), r"more than 0\.1 GiB of memory"),
        "too large": (transparent(9000, 9000), "9000 x 9000 pixels, at most 64000000 are read"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", "cannot be read as a picture"),
    }
    (text,) = model.predict(PAGES[:1])
    for picture, said in hostile.values():
        with pytest.raises(Exception, match=said):
            model.predict([PAGES[1], picture])
        assert model.predict(PAGES[:1]) == [text]
    opener = model.unwrap_python_model()._opener
    assert psutil.Process(opener._process.pid).ppid() == os.getpid()
    opener._process.kill()  # as the kernel does where memory is short
    opener._process.wait()
    assert model.predict(PAGES[:1]) == [text]

    with TestClient(scoring_server.init(model)) as client:
        for content, status in ((PAGES[0], 200), (hostile["large"][0], 400), (PAGES[0], 200)):
            answer = client.post("/invocations", json={"inputs": [base64.b64encode(content).decode()]})
            assert answer.status_code == status, answer.text
            if status == 200:
                assert answer.json() == {"predictions": [text]}
            else:
                assert "more than 0.1 GiB of memory" in answer.text
    opener.close()


def transparent(columns: int, rows: int) -> bytes:
    """Return a PNG of some kilobytes with an alpha channel."""
    stream = io.BytesIO()
    Image.new("RGBA", (columns, rows)).save(stream, "png", compress_level=1)
    return stream.getvalue()


def test_a_package_without_its_base_takes_it_from_the_model_config(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    package = unpacked(made, tmp_path, include_base_model=False, example_page=False)
    assert not (package / "example_page.png").exists() and "## Example" not in (package / "README.md").read_text()
    with pytest.raises(Exception, match="base model is not in this package"):
        mlflow.pyfunc.load_model(str(package))
    with pytest.raises(Exception, match="is not this adapter's base model"):
        mlflow.pyfunc.load_model(str(package), model_config={"base_model": str(made / "adapter")})
    model = mlflow.pyfunc.load_model(str(package), model_config={"base_model": str(made / "base")})
    assert model.predict(PAGES)[0]


def test_the_example_in_the_card_is_the_page_and_its_reading(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    package = unpacked(made, tmp_path)
    card = (package / "README.md").read_text(encoding="utf-8")
    assert "![A held-out page](example_page.png)" in card and "<pre>one boat</pre>" in card
    with Image.open(io.BytesIO(drawn("one boat"))) as page, Image.open(package / "example_page.png") as shown:
        assert shown.mode == "L" and shown.tobytes() == page.convert("L").tobytes()
    assert (tmp_path / "out" / "example_page.png").read_bytes() == (package / "example_page.png").read_bytes()
    (tmp_path / "out" / "example_page.png").write_bytes(b"another picture")
    differing = [found.subject for found in check_integrity(tmp_path / "out", Reach()) if found.state == "differs"]
    assert differing == ["example_page.png beside the zip"]


@pytest.mark.slow
def test_the_champion_of_a_server_reads_pictures(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mlflow_server(tmp_path) as (address, _):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        gate = write_gate(made, tmp_path / "gate", promoted=True)
        package = unpacked(made, tmp_path, gate_dir=gate, register_as="reader")
        model = mlflow.pyfunc.load_model("models:/reader@champion")
        version = mlflow.MlflowClient(address).get_model_version_by_alias("reader", "champion")
        champion = champion_of("reader")
        assert champion is not None
        folder = download(champion, tmp_path / "champion")
    assert version.description.startswith("# reader") and "| adapter | 12.50 % |" in version.description
    assert len(version.tags) <= 14
    (tmp_path / "page.png").write_bytes(PAGES[0])
    assert model.predict([PAGES[0]]) == read_by_the_script(package, [tmp_path / "page.png"])
    assert adapter_kind(folder) == "adapter"
    assert [found for found in check_integrity(folder, Reach()) if found.state == "differs"] == []
