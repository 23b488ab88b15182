"""The ``deepsynth`` command: help, settings, and errors for bad input."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.shared.errors import UserError
from components.shared.tracking.step_run import step_run
from components.shared.versions import code_tag
from pipelines.command_line import COMMANDS
from pipelines.settings.command_settings import checked_config
from pipelines.settings.parameter_text import parameter_text
from pipelines.settings.pipeline_config import pipeline_config, quickstart_values, with_overrides
from pipelines.task_side.resolution import resolve
from tests.fixtures.cluster_command import Shell
from tests.fixtures.mlflow_server import free_port

DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    found = Shell(tmp_path, monkeypatch, capsys)
    (tmp_path / "environment.yaml").unlink()
    return found


def deepsynth(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Run it as a program."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "KFP"))}
    return subprocess.run([DEEPSYNTH, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_help_teaches_with_examples(tmp_path: Path) -> None:
    assert {"run", "config", "compile", "ui"} <= set(deepsynth("--help", folder=tmp_path).stdout.split())
    text = deepsynth("run", "--help", folder=tmp_path).stdout
    assert "--set" in text and "train.learning_rate=1e-4" in text and "deepsynth config" in text


@pytest.mark.parametrize("command", ["--help", "--version", "config", "init my.yaml", "list --help", "lst"])
def test_a_quick_command_imports_no_library_that_takes_long(tmp_path: Path, command: str) -> None:
    program = (
        "import atexit, sys\n"
        "from pipelines.command_line import main\n"
        "atexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.__stderr__))\n"
        f"sys.argv = ['deepsynth', *{command.split()}]\n"
        "main()\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    loaded = set(answer.stderr.split())
    assert "pipelines.lazy_commands" in loaded
    slow = {"torch", "transformers", "kfp", "mlflow", "numpy", "pyarrow", "huggingface_hub", "httpx", "PIL", "jinja2"}
    assert loaded & slow == set()
    if command in ("--help", "--version"):
        assert loaded & {"pydantic", "yaml", *(one.place.partition(":")[0] for one in COMMANDS)} == set()


def test_the_list_of_commands_has_the_help_of_each_command() -> None:
    for command in COMMANDS:
        loaded = command.load()
        first_paragraph = " ".join(loaded.help.split("\n\n")[0].split())
        assert (command.help, command.name) == (first_paragraph, loaded.name)


def test_the_version_is_the_tag_of_the_images(tmp_path: Path) -> None:
    assert deepsynth("--version", folder=tmp_path).stdout == f"{code_tag()}\n"


def test_the_printed_config_is_a_config_with_the_same_values(tmp_path: Path) -> None:
    printed = deepsynth("config", "--set", "train.learning_rate=1e-4", "--set", "source=/docs", folder=tmp_path).stdout
    values = yaml.safe_load(printed)
    assert values["train"]["learning_rate"] == 1e-4
    assert values["source"] == "/docs"
    assert "# rank of the adapter's matrices\n" in printed
    (tmp_path / "my.yaml").write_text(printed)
    assert deepsynth("config", "--config", "my.yaml", folder=tmp_path).stdout == printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "train.learning_rte=1e-4"], "unknown key 'train.learning_rte' (did you mean 'learning_rate'?)"),
        (["--set", "sorce=x"], "unknown key 'sorce' (did you mean 'source'?)"),
        (["--set", "train.r=many"], "'train.r'"),
        (["--set", "train.lr=1e-4"], "unknown key 'train.lr' (did you mean 'learning_rate'?)"),
        (["--set", "learning_rate=1e-4"], "unknown key 'learning_rate' (did you mean 'train.learning_rate'?)"),
        (["--set", "max_steps=9"], "did you mean 'train.max_steps' or 'benchmark.max_steps'?"),
        (["--set", "model=x"], "did you mean 'base_model'?"),
        (["--set", "train.target_modules=q_proj"], "must be a list, written in brackets with commas, such as [q_proj]"),
        (["--set", "train.preset=huge"], "'train': preset: there is no 'huge', the presets are minimal,"),
        (["--set", "train.r"], "must be KEY=VALUE"),
        (["--set", "train.output_dir=x"], "unknown key 'train.output_dir'"),
        (["--set", "prepare.ink=[9, 1]"], "ink: the first number must not be above the second"),
        (["--set", "benchmark.warmup_steps=99"], "no step would be left to measure"),
        (["--set", "base_model=./nowhere"], "no such model folder"),
        (["--set", "source=./nowhere"], "source './nowhere': no such file or folder"),
        (["--set", "source=images:nowhere"], "source images:nowhere: no such folder"),
        (["--set", "source=bad.yaml"], "source bad.yaml: not a kind of file that can be read"),
        (["--set", "prepare.holdout.source=rows{1..2}.jsonl"], "source rows1.jsonl: no such file"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: the config file cannot be read"),
        (["--config", "bad.yaml"], "bad.yaml: unknown key 'trian' (did you mean 'train'?)"),
        (["--run-id", "../up"], "may hold letters"),
        (["--run-id", "r1.failed"], "must not end in .failed"),
    ],
)
def test_bad_settings_are_one_line_before_anything_runs(
    shell: Shell, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "bad.yaml").write_text("trian: {r: 8}\n")
    answer = shell("run", *arguments)
    assert answer.code == 2
    (line,) = answer.err.strip().splitlines()
    assert line.startswith("error: ") and said in line
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_the_starter_file_is_short_and_valid_and_never_overwrites(shell: Shell, tmp_path: Path) -> None:
    assert "my.yaml is ready" in shell("init", "my.yaml").out
    written = (tmp_path / "my.yaml").read_text()
    values = yaml.safe_load(written)
    keys = sum(len(value) if isinstance(value, dict) else 1 for value in values.values())
    assert keys <= 15 and written.startswith("# ")
    assert checked_config(tmp_path / "my.yaml", []).step_settings("train")["r"] == values["train"]["r"]
    again = shell("init", "my.yaml")
    assert again.code == 2 and "my.yaml: the file exists" in again.err
    assert (tmp_path / "my.yaml").read_text() == written


def test_an_error_about_a_preset_dumps_no_settings(shell: Shell) -> None:
    assert "{" not in shell("config", "--set", "train.preset=huge").err


def test_null_leaves_a_setting_to_the_machine() -> None:
    assert "workers" not in checked_config(None, ["prepare.workers=null"]).step_settings("prepare")


def test_a_setting_replaces_a_wrong_value_of_the_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("base_model: ./nowhere\ntrain: {r: many}\n")
    config = ("config", "--config", "my.yaml", "--set", "train.r=4")
    answer = shell(*config)
    assert answer.code == 2 and "no such model folder" in answer.err
    answer = shell(*config, "--set", "base_model=tiny-base")
    assert answer.code == 0 and yaml.safe_load(answer.out)["train"]["r"] == 4
    # The run's first task does the same for a parameter of the pipeline.
    (tmp_path / "rows.jsonl").write_text('{"text": "A text."}\n{"text": "Another."}\n')
    text = json.dumps({"source": str(tmp_path / "rows.jsonl"), "base_model": "./nowhere", "train": {"r": "many"}})
    assert json.loads(resolve(text, {"base_model": "tiny-base", "r": 4}).train)["r"] == 4


def test_a_run_id_that_is_taken_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "runs" / "r1").mkdir(parents=True)
    (tmp_path / "runs" / "r1" / "summary.json").write_text("{}")
    answer = shell("run", "--run-id", "r1")
    assert answer.code == 2 and answer.err.endswith("there is a run of this name; give another --run-id\n")
    assert [path.name for path in (tmp_path / "runs" / "r1").iterdir()] == ["summary.json"]


def test_compile_says_what_is_wrong_with_its_output(shell: Shell, tmp_path: Path) -> None:
    for output, said in (("pipeline.txt", "must end in .yaml"), ("no/pipeline.yaml", "no such folder")):
        answer = shell("compile", "-o", output)
        assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_told_before_the_work(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for output, said in (("no/figures.json", "no such folder"), ("folder", "it is a folder, not a file")):
        answer = shell("estimate", "--no-limits", "--json", output)
        assert answer.code == 2 and said in answer.err and answer.out == ""
    assert shell("estimate", "--no-limits", "--json", "figures.json").code == 0
    assert json.loads((tmp_path / "figures.json").read_text())["gpus"] == []
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "figures.json"}


@pytest.mark.slow
def test_a_warning_of_a_command_is_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / "pages" / f"{name}.txt").write_text(f"Text {name}.")
    answer = deepsynth("run", "--dry-run", "--set", "source=pages", folder=tmp_path)
    assert answer.returncode == 0
    (line,) = answer.stderr.splitlines()
    assert line.startswith("warning: prepare.eval_fraction of 3 documents holds out about 1 documents")


def test_ui_without_runs_says_how_to_make_one(shell: Shell) -> None:
    answer = shell("ui")
    assert answer.code == 2 and "no runs yet" in answer.err and "deepsynth run" in answer.err


@pytest.mark.slow
def test_ui_serves_the_store_of_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "report.html").write_text("<h1>report</h1>")
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    with step_run("evaluate", {"seed": 0}) as tracked:
        tracked.log_artifact(tmp_path / "report.html")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    port = free_port()
    with (tmp_path / "ui.log").open("w") as log:
        ui = subprocess.Popen([DEEPSYNTH, "ui", "--port", str(port)], cwd=tmp_path, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            assert ui.poll() is None and time.monotonic() < deadline, (tmp_path / "ui.log").read_text()
            time.sleep(0.2)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", f"/get-artifact?path=report.html&run_uuid={tracked.run_id}")
        assert connection.getresponse().read() == b"<h1>report</h1>"
    finally:
        ui.terminate()
        ui.wait(timeout=300)
    address = f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=deepsynth"
    assert address in (tmp_path / "ui.log").read_text()


def test_shared_settings_reach_every_step_that_has_them() -> None:
    values = {"base_model": "tiny-base", "seed": 7, "train": {"r": 4, "max_steps": 50}, "benchmark": {"max_steps": 5}}
    config = pipeline_config(values, "test")
    assert config.step_settings("prepare")["seed"] == 7
    assert config.step_settings("train")["seed"] == 7
    assert config.step_settings("train")["base_model"] == "tiny-base"
    benchmark = config.step_settings("benchmark")
    assert benchmark["max_steps"] == 5
    assert benchmark["train"]["r"] == 4 and benchmark["train"]["seed"] == 7
    assert not {"max_steps", "backend", "base_model", "dataset_dir"} & benchmark["train"].keys()


def test_the_number_of_workers_is_left_to_the_machine_of_the_step() -> None:
    assert "workers" not in pipeline_config({}, "test").step_settings("prepare")
    assert pipeline_config({"prepare": {"workers": 3}}, "test").step_settings("prepare")["workers"] == 3


def test_overrides_do_not_change_what_they_override() -> None:
    values = quickstart_values()
    changed = with_overrides(values, {"train.r": 99, "export.model_name": "mine"})
    assert changed["train"]["r"] == 99 and changed["export"]["model_name"] == "mine"
    assert values == quickstart_values()
    with pytest.raises(UserError, match=r"'train\.r'"):
        pipeline_config(with_overrides(values, {"train.r.x": 1}), "test")


def test_a_preset_reaches_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def settings_of(*settings: str, file: str | None = None) -> tuple[dict[str, Any], str]:
        path = tmp_path / "my.yaml"
        path.write_text(file or "")
        checked = checked_config(path if file else None, list(settings))
        text = parameter_text(checked.model_dump(mode="json", exclude_unset=True))
        train, benchmark = checked.step_settings("train"), checked.step_settings("benchmark")["train"]
        assert json.loads(resolve(text, {}).train) == train
        assert {name: train[name] for name in benchmark} == benchmark
        return train, capsys.readouterr().err

    train, said = settings_of("train.preset=unsloth_long_context", "train.r=7")
    # 16 pages per batch are the quickstart's setting: a preset on the command line overrides the file.
    assert train["load_in_4bit"] and train["max_length"] == 32768 and train["per_device_train_batch_size"] == 1
    assert train["r"] == 7 and train["learning_rate"] == 0.003 and "note: train.r is 7, not 16 as in the preset" in said

    train, said = settings_of(file="train: {preset: high_capacity, lora_alpha: 16}")
    assert (train["r"], train["lora_alpha"], train["lora_dropout"]) == (64, 16, 0.1)
    assert said == "note: train.lora_alpha is 16, not 128 as in the preset high_capacity\n"


def test_a_preset_written_into_the_printed_settings_counts(shell: Shell, tmp_path: Path) -> None:
    printed = shell("config", "--set", "train.lora_alpha=5").out
    changed = tmp_path / "my.yaml"
    changed.write_text(printed.replace("preset: null", "preset: high_capacity"))
    train = checked_config(changed, []).step_settings("train")
    assert (train["r"], train["lora_alpha"], train["lora_dropout"]) == (64, 5, 0.1)
