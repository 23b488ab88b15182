"""docs/troubleshooting.md quotes this program's errors: each must still be in the code, and some are provoked here."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from components.shared.errors import UserError
from components.shared.models.base_models import base_model_location
from components.shared.models.model_loading import load_model, model_type_of
from pipelines.command_line import COMMANDS

ROOT = Path(__file__).parents[4]
GUIDE = ROOT / "docs" / "troubleshooting.md"
QUOTED = re.compile(r"<!-- ours: (.+?) -->\n```\n(.+?)\n```", re.DOTALL)


def quotations() -> list[tuple[str, str]]:
    """Return (stable fragment, quoted text) of every error of ours in the guide."""
    text = GUIDE.read_text(encoding="utf-8")
    found = QUOTED.findall(text)
    assert len(found) == text.count("<!-- ours:") > 20
    return found


def texts_of(source: str) -> str:
    """Return all string constants of a module, including the fixed parts of f-strings."""
    nodes = ast.walk(ast.parse(source))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.fixture(scope="module")
def texts() -> str:
    modules = [path for top in ("components", "pipelines") for path in (ROOT / top).rglob("*.py")]
    return "\n".join(texts_of(path.read_text(encoding="utf-8")) for path in modules)


@pytest.mark.parametrize(("fragment", "quoted"), quotations())
def test_a_quoted_error_still_stands_in_the_code(texts: str, fragment: str, quoted: str) -> None:
    assert fragment in quoted, "the marker is not of this text"
    assert fragment in texts, "no module holds this text any more: run the bad input again and quote what it prints"
    assert "\n" not in quoted, "an error is one line"


def test_a_text_that_no_module_holds_is_missed(texts: str) -> None:
    assert "the shard is corrupt (its sha256 is not the manifest's)" in texts
    assert "the shard is corrupt (its sha512 is not the manifest's)" not in texts


def test_a_model_that_asks_for_flash_attention_says_how_to_do_without(tmp_path: Path) -> None:
    folder = tmp_path / "flashy"
    shutil.copytree(base_model_location("tiny-base"), folder)
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    cpu = {"dtype": torch.float32, "device": torch.device("cpu")}
    config.write_text(json.dumps(settings | {"_attn_implementation": "flash_attention_2"}))
    with pytest.raises(UserError, match=r"flashy.*FlashAttention2 has been toggled on.*write sdpa where"):
        load_model(str(folder), **cpu)
    config.write_text(json.dumps(settings | {"_attn_implementation": "sdpa"}))
    assert load_model(str(folder), **cpu).config._attn_implementation == "sdpa"
    assert model_type_of(str(folder)) == settings["model_type"]


def test_the_commands_of_the_cluster_guides_exist() -> None:
    commands, targets = set(), set()
    for name in ("cluster.md", "environments.md", "troubleshooting.md"):
        text = (ROOT / "docs" / name).read_text().replace("\\\n", " ")
        commands |= set(re.findall(r"^(?:\.venv/bin/)?deepsynth ([^#\n]+)", text, re.MULTILINE))
        targets |= set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
    assert len(commands) > 4 and len(targets) > 4
    for command in commands:
        words = shlex.split(command)
        name = words.pop(0)
        (found,) = (one.load() for one in COMMANDS if one.name == name)
        while hasattr(found, "commands") and words[0] in found.commands:
            found = found.commands[words.pop(0)]
        options = {option for parameter in found.params for option in parameter.opts}
        assert not hasattr(found, "commands"), command
        assert {word for word in words if word.startswith("--")} <= options, command
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets <= known


def test_the_guides_link_to_sections_that_exist() -> None:
    for name in ("cluster.md", "troubleshooting.md"):
        for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", (ROOT / "docs" / name).read_text()):
            path = ROOT / "docs" / (target or name)
            assert path.exists(), (name, target)
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE) if anchor else []
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, (name, target, anchor)
