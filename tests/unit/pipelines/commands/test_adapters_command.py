"""``deepsynth adapters`` through the command line, on a registry in a real SQLite store."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner, Result

from components.shared.errors import UserError
from components.shared.tracking import model_registry
from pipelines.command_line import app
from pipelines.commands import adapters_command

NAME = "page-reader"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose store has three versions: 1, the champion 2, the challenger 3."""
    folder = tmp_path_factory.mktemp("registry") / "runs"
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    for cer in ("0.0900123456789", "0.05", "[red]\x1b[31m0.04"):
        tags = {"gate": "promoted", "cer": cer, "cer_interval": "0.0312345 to 0.12", "base_model": "tiny-base"}
        registered = model_registry.register(adapter, NAME, tags, uri=uri)
        if registered.version > 1:
            alias = {2: "champion", 3: "challenger"}[registered.version]
            model_registry.set_alias(registered, alias, uri=uri)
    return folder


@pytest.fixture(autouse=True)
def no_other_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


def adapters(runs: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, ["adapters", *arguments, "--runs-dir", str(runs)])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


def line_with(text: str, output: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if text in line]
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_list_shows_the_newest_first_with_aliases_and_verdict(runs: Path) -> None:
    for name in ([], [NAME]):
        output = adapters(runs, "list", *name).output
        rows = [line for line in output.splitlines() if NAME in line]
        assert [row.split("│")[2].strip() for row in rows] == ["3", "2", "1"]
        assert "@challenger" in rows[0] and "@champion" in rows[1] and "@" not in rows[2]
        assert all("promoted" in row and "tiny-base" in row and "0.03123 to 0.12" in row for row in rows)
        assert [cell.strip() for cell in rows[2].split("│")][6] == "0.09001", "no reader compares 17 digits"
        assert "[red]\\x1b[31m0.04" in rows[0] and "\x1b[31m0.04" not in output, "a tag is text and nothing else"


def test_compare_shows_champion_and_newest_side_by_side(runs: Path) -> None:
    output = adapters(runs, "compare", NAME).output
    assert line_with("version 2", output.replace("┃", "│"))[-2:] == ["version 2", "version 3"]
    assert line_with(" cer ", output) == ["≠", "cer", "0.05", "[red]\\x1b[31m0.04"]
    assert line_with(" gate ", output)[-3:] == ["gate", "promoted", "promoted"]
    assert line_with(" gate ", output)[0] != "≠"
    chosen = adapters(runs, "compare", NAME, "1", "2").output
    assert line_with(" cer ", chosen)[-2:] == ["0.09001", "0.05"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "other"], "other: nothing is registered under this name; registered names: page-reader"),
        (["compare", NAME, "9"], "page-reader: there is no version 9; its versions: 3, 2, 1"),
        (["delete", NAME, "9", "--yes"], "there is no version 9"),
        (["delete", NAME, "1"], "page-reader version 1: deleting needs a yes; add --yes"),
        (["delete", NAME, "2", "--yes"], "page-reader version 2: is the champion"),
    ],
)
def test_what_is_not_there_or_not_meant_is_refused(runs: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        adapters(runs, *arguments)
    assert adapters(runs, "list").output.count(NAME) == 3


def test_an_alias_moves_to_the_version_that_is_named(runs: Path) -> None:
    def holders() -> dict[str, int]:
        uri = f"sqlite:///{runs / 'mlflow.db'}"
        return {alias: one.version for one in model_registry.versions_of(NAME, uri=uri) for alias in one.aliases}

    before = holders()
    assert "it was version 2" in adapters(runs, "set-alias", NAME, "1").output
    assert holders() == before | {"champion": 1}
    adapters(runs, "set-alias", NAME, "2", "--alias", "@champion")
    assert holders() == before
    with pytest.raises(UserError, match="there is no version 9"):
        adapters(runs, "set-alias", NAME, "9")


def test_delete_takes_the_version_and_its_run_away(runs: Path) -> None:
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    adapter = runs / "adapter"
    old = model_registry.register(adapter, "short-lived", {}, uri=uri)
    champion = model_registry.register(adapter, "short-lived", {}, uri=uri)
    model_registry.set_alias(champion, "champion", uri=uri)
    assert "deleted short-lived version 1" in adapters(runs, "delete", "short-lived", "1", "--yes").output
    assert MlflowClient(uri).get_run(old.run_id).info.lifecycle_stage == "deleted"
    adapters(runs, "delete", "short-lived", "2", "--yes", "--force")
    assert model_registry.champion_of("short-lived", uri=uri) is None
    assert "nothing is registered as short-lived" in adapters(runs, "list", "short-lived").output


def test_a_version_that_became_champion_while_the_question_stood_is_kept(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    registered = model_registry.register(runs / "adapter", "risen", {}, uri=uri)

    def yes(_: str) -> bool:
        model_registry.set_alias(registered, "champion", uri=uri)
        return True

    monkeypatch.setattr(adapters_command.typer, "confirm", yes)
    monkeypatch.setattr(adapters_command, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    with pytest.raises(UserError, match="risen version 1: is the champion"):
        adapters(runs, "delete", "risen", "1")
    assert model_registry.champion_of("risen", uri=uri).version == 1


def test_no_store_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no MLflow store"):
        adapters(tmp_path, "list")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_program_ends_with_2_and_one_line(runs: Path) -> None:
    program = [str(Path(sys.executable).with_name("deepsynth")), "adapters", "delete", NAME, "1"]
    answer = subprocess.run(
        [*program, "--runs-dir", str(runs)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert answer.returncode == 2
    assert answer.stderr == "error: page-reader version 1: deleting needs a yes; add --yes\n"
