"""Adapters come and go on one base, and what is loaded or fails to load changes nothing for the others."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.serve.config import ServeConfig
from components.serve.engines.loaded_models import LoadedModels
from components.shared.errors import UserError
from tests.fixtures.drawn_pages import drawn_page
from tests.fixtures.evaluated_package import make_package
from tests.fixtures.serving_adapters import save_adapter

BASE = "tiny-base"


@dataclass(frozen=True)
class Page:
    image: Any
    instruction: None = None


def read(models: LoadedModels, name: str) -> str:
    models.activate(name)
    return models.of(name).transcriber.read([Page(drawn_page("a page of text"))])[0].text


@pytest.mark.slow
def test_adapters_are_loaded_again_after_the_last_one_is_gone(tmp_path: Path) -> None:
    folders = {name: save_adapter(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))}
    damaged = save_adapter(tmp_path / "damaged", 9)
    settings = json.loads((damaged / "adapter_config.json").read_text())
    (damaged / "adapter_config.json").write_text(json.dumps(settings | {"r": 8}))
    models = LoadedModels(ServeConfig(model=BASE, max_new_tokens=16), BASE)
    texts = {BASE: read(models, BASE)}

    def refused() -> None:
        with pytest.raises(UserError, match="cannot be put on the base"):
            models.load("damaged", damaged)

    refused()
    assert read(models, BASE) == texts[BASE], "nothing of the damaged adapter is left on the base"
    for name, folder in folders.items():
        models.load(name, folder)
        texts[name] = read(models, name)
    assert len(set(texts.values())) == 3
    refused()
    for order in (["first", "second"], ["second", "first"]):
        for name in order:
            assert {each: read(models, each) for each in (BASE, name)} == {each: texts[each] for each in (BASE, name)}
            models.unload(name)
        assert read(models, BASE) == texts[BASE]
        for name in order:
            models.load(name, folders[name])


def test_a_package_that_cannot_be_read_as_evaluated_leaves_no_weights(tmp_path: Path) -> None:
    folder = make_package(save_adapter(tmp_path / "package", 1), BASE, max_new_tokens=0)
    models = LoadedModels(ServeConfig(model=BASE, max_new_tokens=16), BASE)
    for _ in range(2):
        with pytest.raises(UserError):
            models.load("package", folder)
    assert not any("lora" in name for name, _ in models.of(BASE).bare.named_parameters())
