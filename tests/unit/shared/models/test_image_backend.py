"""Export and the package's script scale pictures by what the evaluation used, torchvision or Pillow."""

import importlib.util
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from components.evaluate.config import EvaluateConfig
from components.evaluate.step import run as evaluate
from components.export.step import run as export
from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_processor
from components.shared.models.processor_packages import needed_packages
from components.shared.page_reader.loading import load_processor as load_packaged_processor
from components.shared.page_reader.refusal import RefusalError
from components.shared.reading.image_settings import ImageSettings, backend_of, with_image_settings
from tests.fixtures.export_fixture import export_config, make_sources, write_evaluation
from tests.fixtures.family_table import FAMILY_TABLE
from tests.fixtures.torchvision_without_operators import FOLDER, obstacle_to_torchvision

ROOT = Path(__file__).parents[4]
HERE = "pil" if importlib.util.find_spec("torchvision") is None else "torchvision"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_each_image_has_what_the_families_processors_need(image: str) -> None:
    lines = (ROOT / "images" / "packages" / f"{image}.txt").read_text().splitlines()
    packages = {line.partition(" ;")[0] for line in lines if not line.startswith("#")}
    needed = {name for row in FAMILY_TABLE for name in needed_packages(row.model_type)}
    assert needed == {"torchvision", "num2words"} and needed <= packages
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["families"]
    assert {one.partition("==")[0] for one in extra} == needed


def test_report_and_package_name_what_scaled_the_pictures(made: Path, tmp_path: Path) -> None:
    settings = {"dataset_dir": made / "dataset", "adapter_dir": made / "adapter", "base_model": str(made / "base")}
    more = {"max_new_tokens": 2, "classic_ocr": False, "bootstrap_resamples": 100, "split": "train"}
    report = evaluate(EvaluateConfig(output_dir=tmp_path / "evaluation", **settings, **more)).report
    assert report.reading.image_backend == HERE
    exported = export(export_config(made, tmp_path / "package", evaluation_dir=tmp_path / "evaluation"))
    with zipfile.ZipFile(exported.archive) as archive:
        assert json.loads(archive.read("reader/inference_config.json"))["image_backend"] == HERE
        assert ("torchvision" in archive.read("reader/requirements.txt").decode()) == (HERE == "torchvision")


@pytest.mark.skipif(HERE == "torchvision", reason="about machines without torchvision")
def test_other_pixels_than_the_evaluations_are_refused(made: Path, tmp_path: Path) -> None:
    manifest = json.loads((made / "dataset" / "manifest.json").read_text())
    report = json.loads((made / "evaluation" / "report.json").read_text())
    reading = {**report["reading"], "image_backend": "torchvision"}
    write_evaluation(tmp_path / "seen", manifest["digest"], report["models"]["adapter"]["sha256"], reading=reading)
    with pytest.raises(UserError, match="scaled the pictures by torchvision, which is not installed here"):
        export(export_config(made, tmp_path / "package", evaluation_dir=tmp_path / "seen"))
    assert not (tmp_path / "package").exists()
    packaged: dict[str, Any] = {"trust_remote_code": False, "image_backend": "torchvision"}
    with pytest.raises(RefusalError, match=r"pip install -r requirements\.txt"):
        load_packaged_processor(made / "base", packaged)
    assert backend_of(load_packaged_processor(made / "base", packaged | {"image_backend": None})) == "pil"


WITH_TORCHVISION = """
import sys
sys.path[:0] = sys.argv[1:3]
import torchvision_operators, torch
from PIL import Image
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_processor
from components.shared.page_reader.loading import load_processor as packaged
from components.shared.reading.image_settings import ImageSettings, backend_of, with_image_settings

page = Image.linear_gradient("L").convert("RGB").resize((90, 70))
pixels = {}
for backend in ("torchvision", "pil"):
    processor = load_processor("tiny-base")
    assert backend_of(processor) == "torchvision"
    with_image_settings(ImageSettings(image_backend=backend), processor, family_of("paddleocr_vl"))
    read = packaged(sys.argv[3], {"trust_remote_code": False, "image_backend": backend})
    assert backend_of(processor) == backend_of(read) == backend
    pixels[backend] = processor.image_processor([page], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels[backend], read.image_processor([page], return_tensors="pt")["pixel_values"])
torch.save(pixels, sys.argv[4])
"""


@pytest.mark.slow
@pytest.mark.skipif(obstacle_to_torchvision() is not None, reason=str(obstacle_to_torchvision()))
def test_beside_torchvision_a_package_of_pillow_sees_pillows_pixels(tmp_path: Path) -> None:
    """As the CPU image has it: the index's torchvision, and the file that declares its operators."""
    base = ROOT / "components" / "shared" / "tiny_base"
    command = [sys.executable, "-c", WITH_TORCHVISION, str(FOLDER), str(ROOT / "images"), str(base)]
    done = subprocess.run([*command, str(tmp_path / "pixels.pt")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    pixels = torch.load(tmp_path / "pixels.pt")
    assert not torch.equal(pixels["pil"], pixels["torchvision"])
    if HERE == "pil":
        page = Image.linear_gradient("L").convert("RGB").resize((90, 70))
        here = load_processor("tiny-base")
        with_image_settings(ImageSettings(image_backend="pil"), here, family_of("paddleocr_vl"))
        assert torch.equal(here.image_processor([page], return_tensors="pt")["pixel_values"], pixels["pil"])
