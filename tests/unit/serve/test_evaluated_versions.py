"""A version is read as its package was evaluated: its prompt, image options, rule against repetitions, and limit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from components.serve.adapters.sources import ModelFiles
from components.serve.config import ServeConfig
from components.serve.offline.local_reader import LocalReader
from components.serve.reading.evaluated import evaluated_reading
from components.serve.reading.version_reading import VersionReading, version_reading
from components.shared.errors import UserError
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.page_reader.no_repeat_ngrams import NoRepeatNgrams
from components.shared.reading.image_settings import ImageSettings, with_image_settings
from components.shared.reading.transcriber import Prediction, Transcriber
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from tests.fixtures.drawn_pages import as_file, drawn_page
from tests.fixtures.evaluated_package import make_package
from tests.fixtures.service_process import RunningService, running_service
from tests.fixtures.serving_adapters import save_adapter

SUMMARY, READ = "Summarize the page.", "Read this:"
FAMILY = family_of("deepseek_ocr2")
VIEW = {"size": {"height": 192, "width": 192}, "tile_size": 192, "crop_to_patches": False}
RULE = {"size": 2, "window": None, "allowed": []}


@dataclass(frozen=True)
class Page:
    image: Any
    instruction: str | None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_tiny_deepseek_ocr2(folder := tmp_path_factory.mktemp("base"))
    return folder


@pytest.fixture(scope="module")
def package(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_tiny_deepseek_ocr2(folder := tmp_path_factory.mktemp("package"), seed=1)
    changes = {"image_options": VIEW, "no_repeat_ngrams": RULE, "max_new_tokens": 12}
    return make_package(folder, str(base), SUMMARY, **changes)


def evaluated(package: Path, page: Page) -> Prediction:
    """What the evaluation reads with the package's settings."""
    model: Any = load_model(str(package), dtype=torch.float32, device=torch.device("cpu")).eval()
    processor = load_processor(str(package))
    family = with_image_settings(ImageSettings(image_size=192, crop_mode=False), processor, FAMILY)
    assert family.image_options == VIEW
    return Transcriber(model, processor, family, 12, graphed=False, no_repeat=NoRepeatNgrams(2)).read([page])[0]


def served(package: Path, base: Path, page: Page, **settings: Any) -> tuple[str, float]:
    """What the embedded engine reads, which has the version's own prompt where the page has none."""
    config = ServeConfig(model=str(package), base_model=str(base), **settings)
    with LocalReader(ModelFiles("version", package), config) as reader:
        (reading,) = reader.read([page.image])
    return reading.text, reading.mean_logprob


def test_the_engine_reads_a_version_as_the_evaluation_did(package: Path, base: Path) -> None:
    picture = drawn_page("a page of text")
    expected = evaluated(package, Page(picture, SUMMARY))
    text, mean = served(package, base, Page(picture, None))
    assert (text, mean) == (expected.text, pytest.approx(expected.mean_logprob, abs=1e-4))
    assert served(package, base, Page(picture, None), crop_mode=True)[1] != pytest.approx(mean, abs=1e-6)


def reading_of(
    package: Path, base: Path, *, always_sees: dict[str, Any] | None = None, **settings: Any
) -> VersionReading:
    config = ServeConfig(model=str(base), **settings)
    processor = load_processor(str(base))
    return version_reading(config, evaluated_reading(package), processor, FAMILY, always_sees=always_sees)


def test_settings_that_are_given_come_before_the_packages_and_end_its_calibration(package: Path, base: Path) -> None:
    found = reading_of(package, base)
    assert (found.family.prompt, found.family.image_options) == (SUMMARY, VIEW)
    assert (found.no_repeat, found.max_new_tokens, found.most_new_tokens) == (NoRepeatNgrams(2), 12, 512)
    assert found.differs == ()
    assert [found.longest(wanted) for wanted in (None, 3, 100, 1000)] == [12, 3, 100, 512]

    same = reading_of(package, base, image_size=192, crop_mode=False, no_repeat_ngram_size=2)
    assert (same.family.image_options, same.no_repeat, same.differs) == (VIEW, NoRepeatNgrams(2), ())
    sizes = reading_of(package, base, base_size=256)
    assert sizes.family.image_options["crop_to_patches"] and sizes.differs == ("the sizes of its pictures",)
    for off in ({"no_repeat_ngram_size": None}, {"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": "family"}):
        rule = reading_of(package, base, **off)
        assert rule.no_repeat != NoRepeatNgrams(2) and rule.differs == ("the rule against repetitions",), off
    longer = reading_of(package, base, max_new_tokens=700)
    assert (longer.max_new_tokens, longer.most_new_tokens, longer.differs) == (700, 700, ())

    own_sizes = {"size": {"height": 256, "width": 256}, "tile_size": 192, "crop_to_patches": True}
    in_vllm = reading_of(package, base, always_sees=own_sizes)
    assert in_vllm.family.image_options == {} and in_vllm.differs == ("the sizes of its pictures",)
    settings = json.loads((package / "inference_config.json").read_text())
    (other := base / "other").mkdir()
    for options in ({}, own_sizes):
        (other / "inference_config.json").write_text(json.dumps(settings | {"image_options": options}))
        assert reading_of(other, base, always_sees=own_sizes).differs == (), "the model's own sizes, given or not"
        with_tiles = {**own_sizes, "max_patches": 3}
        assert reading_of(other, base, always_sees=with_tiles).differs == ("the sizes of its pictures",)


def test_older_packages_and_what_is_no_package(base: Path, tmp_path: Path) -> None:
    def without_instruction(instruction: str | None) -> Path:
        path = make_package(tmp_path, str(base), instruction) / "inference_config.json"
        content = json.loads(path.read_text())
        del content["instruction"]
        path.write_text(json.dumps(content))
        return tmp_path

    assert reading_of(without_instruction(SUMMARY), base).family.prompt == SUMMARY
    assert reading_of(without_instruction(None), base).family.prompt == FAMILY.prompt
    path = tmp_path / "inference_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompt": "another template"}))
    with pytest.raises(UserError, match="export again"):
        reading_of(tmp_path, base)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"instruction": None}))
    assert reading_of(tmp_path, base).differs == ("the prompt's template",)
    for content in ("{", '{"base_model": "tiny-base"}'):
        path.write_text(content)
        with pytest.raises(UserError, match="export again"):
            evaluated_reading(tmp_path)
    path.unlink()
    assert reading_of(tmp_path, base) == VersionReading(FAMILY, None, 512, 512)


@pytest.mark.slow
def test_a_services_versions_have_their_own_settings(tmp_path: Path) -> None:
    changes = {"no_repeat_ngrams": {"size": 3, "window": 40, "allowed": []}, "max_new_tokens": 9}
    package = make_package(save_adapter(tmp_path / "reader", 1), "tiny-base", READ, **changes)
    long = make_package(save_adapter(tmp_path / "long", 1), "tiny-base", READ, max_new_tokens=600)
    with running_service(tmp_path, "--model", str(package), "--adapters", str(long)) as service:
        _check_versions(service)


def _check_versions(service: RunningService) -> None:
    def read(**fields: str) -> dict[str, Any]:
        files = {"file": as_file(drawn_page("a longer line of text"))}
        answer = requests.post(f"{service.url}/v1/ocr", files=files, data=fields, timeout=300)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def is_calibrated(answer: dict[str, Any]) -> bool:
        return "probability" in answer["pages"][0]["confidence"]

    own, base, long = read(), read(model="tiny-base", max_new_tokens="400"), read(model="long", max_new_tokens="400")
    assert own["decoding"] == {"no_repeat_ngram_size": 3, "no_repeat_ngram_window": 40}
    assert base["decoding"] == long["decoding"] == {"no_repeat_ngram_size": None, "no_repeat_ngram_window": None}
    assert own["pages"][0]["tokens"] == 9 and own["pages"][0]["truncated"] and not is_calibrated(own)
    assert read(max_new_tokens="4")["pages"][0]["tokens"] == 4, "a client may want less"
    assert read(max_new_tokens="30")["pages"][0]["tokens"] > 9, "and more"
    assert is_calibrated(long) and not long["pages"][0]["truncated"] and not is_calibrated(base)
    same, other = (read(model="long", instruction=text, max_new_tokens="400") for text in (READ, SUMMARY))
    assert same["pages"][0]["text"] == long["pages"][0]["text"] and is_calibrated(same)
    assert not is_calibrated(other), "another prompt is not what was evaluated"
