"""Any text in a setting arrives unchanged: through KFP's compiler, its local runner and our tasks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kfp import dsl, local
from kfp.compiler import Compiler
from kfp.components import load_component_from_file

from components.shared.errors import UserError
from components.shared.programs.step_config import parse_config_text
from pipelines.settings.parameter_text import parameter_text, parameter_word
from pipelines.settings.pipeline_config import pipeline_config
from pipelines.task_side.resolution import resolve

# Argo's, the driver's, the local runner's and Kubernetes' syntax, quotes, and special characters of JSON and YAML.
SYNTAX = [
    *("{{workflow.name}}", "{{$.inputs.parameters}}", "{{$.inputs.parameters['config']}}", "{{$}}", "{{=1+1}}", "{{"),
    *(
        "$(HOME)",
        "$$(HOME)",
        "${HOME}",
        "`id`",
        "'",
        '"',
        "\\",
        "\\u007b",
        "\\n",
        "\n",
        "\r\n",
        "\t",
        "\x00",
        "\x1b[0m",
    ),
    *(
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\U0001f600",
        "𝔘",
        "é",
        "ｱ",
        "python3",
        "python\\u0033",
        "- a: &b *b",
        "# no",
    ),
    *("%7B%7B", "&lt;", "<b>", "!!python/name:os.system", "1e-4", "null", "yes", "}}", "[[", "---", "..."),
]
texts = st.lists(st.one_of(st.sampled_from(SYNTAX), st.text(max_size=8)), max_size=6).map("".join)


@dsl.component(base_image="deepsynth-pipelines-python:1", install_kfp_package=False)
def hand_on(config: str) -> str:
    """Read the settings as a task does, and output them as configure does."""
    from components.shared.programs.step_config import parse_config_text
    from pipelines.settings.parameter_text import parameter_text

    return parameter_text(parse_config_text(config, "hand_on"))


@dsl.pipeline(name="hand-on-twice")
def hand_on_twice(config: str) -> str:
    """Pass the settings from the pipeline to a task, to a task in a sub-pipeline, and out."""
    first = hand_on(config=config)
    return hand_on(config=first.output).output


@given(st.dictionaries(texts, st.one_of(texts, st.lists(texts, max_size=3)), max_size=4))
def test_the_text_is_json_of_the_same_value_and_holds_nobodys_syntax(value: dict[str, Any]) -> None:
    text = parameter_text({"settings": value})
    assert json.loads(text) == parse_config_text(text, "test") == {"settings": value}
    assert text.isascii() and text.isprintable()
    for syntax in ("{{", "$", "'", "python3"):
        assert syntax not in text


@given(texts, texts)
def test_two_names_stay_two_and_hold_nobodys_syntax(one: str, other: str) -> None:
    assert (parameter_word(one) == parameter_word(other)) == (one == other)
    assert not {"{", "}", "$", "'"} & set(parameter_word(one))


@given(st.lists(texts, min_size=50, max_size=80))
@settings(max_examples=1, suppress_health_check=list(HealthCheck))
def test_settings_arrive_through_kfps_compiler_and_local_runner(tmp_path_factory: Any, drawn: list[str]) -> None:
    folder = tmp_path_factory.mktemp("hand-on")
    value = {"instruction": SYNTAX + drawn, "{{workflow.name}}": "".join(SYNTAX)}
    package = folder / "pipeline.yaml"
    # The compiler writes the text as the parameter's default, as `--config` in a schedule or a UI's clone does.
    Compiler().compile(hand_on_twice, str(package), pipeline_parameters={"config": parameter_text(value)})
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "root"),
        workspace_root=str(folder / "workspace"),
    )
    output = load_component_from_file(str(package))().output
    assert json.loads(output) == value


def test_an_instruction_reaches_each_step_unchanged(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "A text."}\n{"text": "Another."}\n')
    instruction = "<image>\nRead {{workflow.name}} and $(HOME): {{$.inputs.parameters}} 'python3' \U0001f600"
    values = {"source": str(tmp_path / "rows.jsonl"), "prepare": {"instruction": instruction}}
    configured = resolve(parameter_text(values), {})
    assert json.loads(configured.prepare)["instruction"] == instruction
    assert not any("{{" in text for text in configured)


def test_save_steps_needs_a_folder_only_where_the_run_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "A text."}\n{"text": "Another."}\n')
    values = {"source": str(tmp_path / "rows.jsonl"), "train": {"save_steps": 4}}
    with pytest.raises(UserError, match="save_steps needs a checkpoint_dir"):
        resolve(parameter_text(values), {})
    monkeypatch.setenv("DEEPSYNTH_CHECKPOINTS", "/checkpoints")
    assert json.loads(resolve(parameter_text(values), {}).train)["save_steps"] == 4
    assert pipeline_config(values, "test", checkpoints=True).step_settings("train")["save_steps"] == 4


def test_a_cluster_with_checkpoints_tells_configure_of_them(tmp_path: Path) -> None:
    package = tmp_path / "pipeline.yaml"
    deepsynth = str(Path(sys.executable).with_name("deepsynth"))
    environment = Path(__file__).parents[2] / "manifests" / "environments" / "local.yaml"
    subprocess.run([deepsynth, "compile", "-o", package, "--environment", environment], check=True, capture_output=True)
    spec, platform = yaml.safe_load_all(package.read_text())
    executors = spec["deploymentSpec"]["executors"]
    variables = executors["exec-configure"]["container"]["env"]
    assert {"name": "DEEPSYNTH_CHECKPOINTS", "value": "/checkpoints"} in variables
    mounts = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-configure"].get("pvcMount", [])
    assert "/checkpoints" not in [mount["mountPath"] for mount in mounts]
