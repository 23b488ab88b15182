"""A stranger's base model that is wrong on purpose: one line that names it, from the processor, before any training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from components.shared.errors import UserError
from components.shared.models.base_models import TINY_BASE_FOLDER
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_processor, model_type_of
from components.shared.reading.image_text_inputs import generation_inputs

DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000


def processors_file(folder: Path) -> Path:
    (path,) = [one for one in folder.glob("*processor_config.json") if "preprocessor" not in one.name][:1] or [
        folder / "preprocessor_config.json"
    ]
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "config.json").write_text(DEEP),
        lambda folder: (folder / "config.json").write_text("[1, 2]"),
        lambda folder: (folder / "config.json").write_text('{"model_type": ["a"]}'),
        lambda folder: (folder / "tokenizer.json").write_text(DEEP),
        lambda folder: (folder / "tokenizer.json").write_text('{"model": 1}'),
        lambda folder: processors_file(folder).write_text("[" * 100_000 + "]" * 100_000),
        lambda folder: processors_file(folder).write_text("3"),
        lambda folder: processors_file(folder).write_bytes(b"\xff\xfe\x00"),
    ],
    ids=["deep config", "list", "type", "deep tokenizer", "other tokenizer", "deep processor", "number", "bytes"],
)
def test_files_that_are_no_model(tmp_path: Path, change: Callable[[Path], object]) -> None:
    shutil.copytree(TINY_BASE_FOLDER, tmp_path / "base")
    change(tmp_path / "base")
    with pytest.raises(UserError, match=f"base_model '{tmp_path / 'base'}': the model cannot be loaded"):
        model_type_of(str(tmp_path / "base"))
        load_processor(str(tmp_path / "base"))


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}" + (
    "{% endfor %}{% endfor %}"
)

DOUBLED = "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError: access to attribute '__class__'"),
        ("{% for x in %}", "TemplateSyntaxError: Expected an expression"),
        ("{{ raise_exception('no system message') }}", "TemplateError: no system message"),
        ("{{ messages.nothing.at.all }}", "UndefinedError: "),
        ("{{ 1 // 0 }}", "ZeroDivisionError: "),
        ("{% for a in range(10 ** 9) %}{% endfor %}", "OverflowError: Range too big"),
        ("{{ 'x' * 10 ** 10 }}", "EndlessError: more than 1 GiB of memory"),
        ("{{ messages | string | center(10 ** 10) }}", "EndlessError: more than 1 GiB of memory"),
        (DOUBLED, "EndlessError: more than 1 GiB of memory"),
        (LOOPS, "EndlessError: more than 1,000,000 lines were run"),
    ],
)
def test_a_chat_template_that_fails_or_does_not_end(tmp_path: Path, template: str, said: str) -> None:
    processor = load_processor("tiny-base")
    family = family_of(json.loads((TINY_BASE_FOLDER / "config.json").read_text())["model_type"])
    processor.chat_template = template
    with pytest.raises(UserError, match="the processor's chat template fails") as error:
        generation_inputs(processor, family, [Image.new("RGB", (64, 64))], [None])
    assert said in str(error.value) and "chat_template.jinja" in str(error.value)
