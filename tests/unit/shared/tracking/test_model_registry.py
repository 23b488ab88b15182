"""The model registry, in a real SQLite store and on a real MLflow server."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from components.shared.errors import UserError
from components.shared.programs.machine_failures import named_failure
from components.shared.tracking import model_registry, registered_files
from components.shared.tracking.model_registry import (
    CHALLENGER,
    CHAMPION,
    RegistryUnavailableError,
)
from components.shared.tracking.registered_files import RegisteredFilesError
from tests.fixtures.mlflow_server import end, free_port, mlflow_server

NAME = "ocr-latin"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with MLflow's tables, made once because it takes a second."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture(autouse=True)
def registry(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "an adapter"
    (folder / "inner").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "inner" / "vocab.txt").write_text("a\nb\n")
    return folder


def works(adapter: Path, target: Path) -> None:
    """Register two versions, move the champion's alias, download it, delete the other."""
    assert model_registry.champion_of(NAME) is None
    first = model_registry.register(adapter, NAME, {"git_sha": "abc", "passed": True, "cer": 0.25, "none": None})
    assert model_registry.champion_of(NAME) is None, "a version is nobody's champion until it gets the alias"
    model_registry.set_alias(first, CHAMPION)
    (adapter / "adapter_model.safetensors").write_bytes(b"better weights")
    second = model_registry.register(adapter, NAME, {})
    model_registry.set_alias(second, CHALLENGER)
    assert model_registry.champion_of(NAME).version == first.version == 1
    model_registry.set_alias(second, CHAMPION)
    newest, oldest = model_registry.versions_of(NAME)
    assert (newest.version, set(newest.aliases)) == (2, {CHALLENGER, CHAMPION})
    assert (oldest.version, oldest.aliases) == (1, ())
    assert {name: oldest.tags[name] for name in ("git_sha", "passed", "cer")} == {
        "git_sha": "abc",
        "passed": "True",
        "cer": "0.25",
    }
    assert "none" not in oldest.tags
    registered_files.download(model_registry.champion_of(NAME), target)
    assert (target / "adapter_model.safetensors").read_bytes() == b"better weights"
    assert (target / "inner" / "vocab.txt").read_text() == "a\nb\n"
    model_registry.delete_version(oldest)
    assert [version.version for version in model_registry.versions_of(NAME)] == [2]
    assert model_registry.names() == [NAME]


def test_versions_are_registered_promoted_downloaded_and_deleted(adapter: Path, tmp_path: Path) -> None:
    works(adapter, tmp_path / "champion")
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlartifacts", "an adapter", "champion"}


@pytest.mark.slow
def test_a_server_answers_alike_and_is_a_named_error_when_it_dies(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow_server(tmp_path) as (uri, process):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        works(adapter, tmp_path / "champion")
        champion = model_registry.champion_of(NAME)
        shutil.rmtree(tmp_path / "server-artifacts")
        with pytest.raises(RegisteredFilesError, match=r"ocr-latin version 2.*the version's files are gone"):
            registered_files.download(champion, tmp_path / "again")
        end(process)
        with pytest.raises(RegistryUnavailableError, match=f"{uri}: the MLflow registry cannot be used"):
            registered_files.download(champion, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_files_that_are_gone_or_changed_are_named(adapter: Path, tmp_path: Path) -> None:
    registered = model_registry.register(adapter, NAME, {})
    place = Path(registered.source.removeprefix("file://"))
    (place / "inner" / "vocab.txt").write_text("a\nc\n")
    with pytest.raises(RegisteredFilesError, match=r"ocr-latin version 1 .*: the files are not those that were"):
        registered_files.download(registered, tmp_path / "champion")
    shutil.rmtree(place)
    with pytest.raises(RegisteredFilesError, match=r"ocr-latin version 1 .*: the version's files are gone"):
        registered_files.download(registered, tmp_path / "champion")
    assert not (tmp_path / "champion").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        # When MLflow copies several files, it turns either of these into a single error with their texts.
        MlflowException("failures occurred while downloading: ##### File a ##### [Errno 28] No space left on device"),
    ],
    ids=["full disk", "store down", "full disk in words"],
)
def test_files_that_cannot_be_fetched_are_not_called_gone(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(**_: Any) -> str:
        raise error

    registered = model_registry.register(adapter, NAME, {})
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", fails)
    with pytest.raises(RegistryUnavailableError, match="the version's files cannot be fetched") as caught:
        registered_files.download(registered, tmp_path / "champion")
    said = str(caught.value)
    assert str(error) in said and "gone" not in said and "delete" not in said
    assert caught.value.__cause__ is error
    named = named_failure(caught.value, "evaluate")
    assert (named is not None and "no space is left" in str(named)) == ("No space" in str(error))
    assert not (tmp_path / "champion").exists()


def test_a_folder_that_cannot_be_looked_into_is_not_called_gone(adapter: Path, tmp_path: Path) -> None:
    registered = model_registry.register(adapter, NAME, {})
    place = Path(registered.source.removeprefix("file://"))
    shutil.rmtree(place)
    place.symlink_to(place)  # like a broken mount: stat fails with an error other than "not found"
    with pytest.raises(RegistryUnavailableError, match="the version's files cannot be fetched"):
        registered_files.download(registered, tmp_path / "champion")


def test_aliases_that_moved_meanwhile_are_not_deleted_with_the_old_version(registry: str, adapter: Path) -> None:
    first = model_registry.register(adapter, NAME, {})
    for alias in (CHALLENGER, CHAMPION, "stays-behind"):
        model_registry.set_alias(first, alias)
    (read_before,) = model_registry.versions_of(NAME)
    second = model_registry.register(adapter, NAME, {})
    for alias in (CHALLENGER, CHAMPION):
        model_registry.set_alias(second, alias)
    model_registry.delete_version(read_before)
    assert [version.version for version in model_registry.versions_of(NAME)] == [2]
    aliases = MlflowClient(registry).get_registered_model(NAME).aliases
    assert {name: int(version) for name, version in aliases.items()} == {CHALLENGER: 2, CHAMPION: 2}


def test_a_registry_that_is_down_or_off_is_not_a_registry_without_a_champion(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailableError, match="the MLflow registry cannot be used") as caught:
        model_registry.champion_of(NAME)
    assert "secret" not in str(caught.value)
    with pytest.raises(RegistryUnavailableError, match="the MLflow registry cannot be used"):
        model_registry.register(adapter, NAME, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with pytest.raises(RegistryUnavailableError, match="MLFLOW_TRACKING_URI: tracking is off"):
        model_registry.champion_of(NAME)


def test_an_upload_that_fails_registers_nothing(registry: str, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "mlartifacts").write_text("a file where the folder of all artifacts must go")
    with pytest.raises(RegistryUnavailableError):
        model_registry.register(adapter, NAME, {})
    assert model_registry.versions_of(NAME) == []
    client = MlflowClient(registry)
    (run,) = client.search_runs([client.get_experiment_by_name("deepsynth-adapters").experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("name", ["", "a/b", "models:x", "it's", "two words"])
def test_names_that_mlflow_or_its_queries_cannot_bear_are_refused(adapter: Path, name: str) -> None:
    with pytest.raises(UserError, match="not a registered model's name"):
        model_registry.register(adapter, name, {})
    with pytest.raises(UserError, match="not a registered model's name"):
        model_registry.champion_of(name)


def test_an_empty_folder_is_not_registered(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(UserError, match="no such folder, or nothing is in it"):
            model_registry.register(folder, NAME, {})
