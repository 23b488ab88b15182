"""A package is published to the MLflow registry and the hub, immediately or later; and what happens on failures."""

import json
import logging
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from components.export.config import ExportConfig
from components.export.lineage.findings import Reach
from components.export.lineage.integrity import check_integrity
from components.export.publication.hub_upload import push_package
from components.export.publication.registration import register_package
from components.export.step import ExportResult, run
from components.shared.artifacts.evaluation_report import EvaluationReport, ReportRow
from components.shared.digests import sha256_file
from components.shared.errors import UserError
from components.shared.models.adapter_loading import adapter_kind
from components.shared.tracking.model_registry import RegistryUnavailableError, champion_of, versions_of
from components.shared.tracking.registered_files import download
from pipelines.command_line import app
from tests.fixtures.export_fixture import export_config, make_sources, write_gate
from tests.fixtures.hub_server import Hub, hub_server
from tests.fixtures.report_fixture import report_row


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def blank_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Shared, because MLflow takes 3 s to create a SQLite store."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path.read_bytes()


@pytest.fixture
def _registry(tmp_path: Path, blank_store: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_bytes(blank_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def _no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield server


def exported(made: Path, output: Path, **changes: Any) -> ExportResult:
    return run(export_config(made, output, **{"include_base_model": False, **changes}))


@pytest.mark.usefixtures("_registry")
def test_a_promoted_adapter_becomes_challenger_and_champion(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-7")
    monkeypatch.setenv("DEEPSYNTH_GIT_COMMIT", "abc123")
    gate = write_gate(made, tmp_path / "gate", promoted=True)
    result = exported(made, tmp_path / "out", gate_dir=gate, register_as="reader")
    assert result.registered is not None and result.registered.version == 1
    (version,) = versions_of("reader")
    assert version.aliases == ("challenger", "champion")
    manifest = json.loads((made / "dataset" / "manifest.json").read_text())
    expected = {
        "gate": "promoted",
        "gate.reason": "for the test",
        "cer": "0.125",
        "dataset_digest": manifest["digest"],
        "source_digest": manifest["source_digest"],
        "package_sha256": sha256_file(result.archive),
        "pipeline_run_id": "run-7",
    }
    assert {name: version.tags.get(name) for name in expected} == expected
    assert len(version.tags) <= 15, "people read them; lineage.json holds the rest"
    assert version.tags["git_commit"], "from the environment, unless this process asked git before"
    # The registered files are an adapter as the train step writes it, so evaluate can load it as the champion.
    champion = champion_of("reader")
    assert champion is not None
    folder = download(champion, tmp_path / "champion")
    assert adapter_kind(folder) == "adapter"
    assert [finding for finding in check_integrity(folder, Reach()) if finding.state == "differs"] == []


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize("gate", ["not promoted", "not asked"])
def test_others_are_challengers_alone(made: Path, tmp_path: Path, gate: str) -> None:
    folder = write_gate(made, tmp_path / "gate", promoted=False) if gate == "not promoted" else None
    exported(made, tmp_path / "out", gate_dir=folder, register_as="reader")
    (version,) = versions_of("reader")
    assert version.aliases == ("challenger",) and version.tags["gate"] == gate


@pytest.mark.usefixtures("_registry")
def test_the_alias_moves_only_from_the_champion_that_the_gate_compared_with(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    against_base = write_gate(made, tmp_path / "gate", promoted=True)
    exported(made, tmp_path / "one", gate_dir=against_base, register_as="reader")
    exported(made, tmp_path / "two", gate_dir=against_base, register_as="reader", model_name="second")
    assert "reader version 1 stays champion" in caplog.text
    reference = {
        "registered_model": "reader",
        "version": 1,
        "kind": "adapter",
        "sha256": "c" * 64,
        "training_documents": "none among these pages",
    }
    changes: dict[str, Any] = {"reference": "champion", "reference_model": reference}
    against_champion = write_gate(made, tmp_path / "gate-2", promoted=True, **changes)
    shutil.copytree(made / "evaluation", tmp_path / "evaluation")
    report = EvaluationReport.read(made / "evaluation")
    champion = ReportRow.model_validate(report_row("champion", 0.75))
    report.model_copy(update={"rows": [*report.rows, champion]}).write(tmp_path / "evaluation")
    where = {"gate_dir": against_champion, "evaluation_dir": tmp_path / "evaluation"}
    exported(made, tmp_path / "three", **where, register_as="reader", model_name="third")
    aliases = {version.version: version.aliases for version in versions_of("reader")}
    assert aliases == {1: (), 2: (), 3: ("challenger", "champion")}


@pytest.mark.usefixtures("_registry")
def test_the_same_adapter_exported_by_another_run_stays_the_same_version(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a run whose training and evaluation came from KFP's cache."""
    archives = []
    for run_id, promoted in (("run-7", False), ("run-8", True), ("run-9", True)):
        monkeypatch.setenv("KFP_RUN_ID", run_id)
        caplog.clear()
        gate = write_gate(made, tmp_path / f"gate-{run_id}", promoted=promoted)
        with caplog.at_level(logging.INFO):
            result = exported(made, tmp_path / run_id, gate_dir=gate, register_as="reader")
        archives.append(sha256_file(result.archive))
        assert result.registered is not None
    assert len(set(archives)) == 3, "each zip names its own run"
    newest, first = versions_of("reader")
    assert (newest.version, first.version, result.registered.version) == (2, 1, 2), "another verdict, another package"
    assert "reader version 2 holds these files already: no new version" in caplog.text
    assert newest.aliases == ("challenger", "champion") and first.aliases == ()
    assert newest.tags["package_sha256"] == archives[1] and newest.tags["pipeline_run_id"] == "run-8"
    assert newest.tags["last_pipeline_run_id"] == "run-9"


@pytest.mark.usefixtures("_registry")
def test_registering_again_makes_no_second_version(made: Path, tmp_path: Path) -> None:
    result = exported(made, tmp_path / "out")
    assert result.registered is None
    for package in (result.folder, result.archive):
        answer = CliRunner().invoke(app, ["register", str(package), "--as", "reader"])
        assert answer.exit_code == 0 and answer.output == "reader version 1: challenger\n"
    assert len(versions_of("reader")) == 1


def test_a_registry_that_is_down_keeps_the_package_and_says_how_to_go_on(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, blank_store: bytes
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = exported(made, tmp_path / "out", register_as="reader")
    assert result.registered is None and zipfile.is_zipfile(result.archive)
    command = f"deepsynth register {tmp_path / 'out'} --as reader"
    assert command in caplog.text and "not registered" in caplog.text
    with pytest.raises(RegistryUnavailableError):
        register_package(tmp_path / "out", "reader")
    (tmp_path / "mlflow.db").write_bytes(blank_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert CliRunner().invoke(app, command.split()[1:]).exit_code == 0
    assert [version.version for version in versions_of("reader")] == [1]


@pytest.mark.usefixtures("_no_registry")
def test_a_package_that_was_changed_is_not_registered(made: Path, tmp_path: Path) -> None:
    result = exported(made, tmp_path / "out")
    with zipfile.ZipFile(result.archive, "a") as archive:
        archive.writestr("reader/extra.py", "")
    with pytest.raises(UserError, match="does not match its lineage"):
        register_package(result.folder, "reader")


@pytest.mark.usefixtures("_no_registry")
def test_a_verdict_about_another_adapter_is_refused(made: Path, tmp_path: Path) -> None:
    gate = write_gate(made, tmp_path / "gate", promoted=True, adapter_sha256="0" * 64)
    with pytest.raises(UserError, match="verdict is of another adapter"):
        exported(made, tmp_path / "out", gate_dir=gate)
    with pytest.raises(UserError, match=r"verdict\.json"):
        exported(made, tmp_path / "out", gate_dir=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_no_registry")
def test_a_changed_verdict_is_seen_by_verify(made: Path, tmp_path: Path) -> None:
    gate = write_gate(made, tmp_path / "gate", promoted=False)
    result = exported(made, tmp_path / "out", gate_dir=gate)
    with zipfile.ZipFile(result.archive) as archive:
        archive.extractall(tmp_path)
    path = tmp_path / "reader" / "lineage" / "verdict.json"
    path.write_text(path.read_text().replace('"promoted": false', '"promoted": true'))
    findings = check_integrity(tmp_path / "reader", Reach())
    subjects = {finding.subject for finding in findings if finding.state == "differs"}
    assert subjects == {"lineage/verdict.json", "verdict.json: decision"}


@pytest.mark.usefixtures("_no_registry")
def test_the_package_is_uploaded_in_one_commit(made: Path, tmp_path: Path, hub: Hub) -> None:
    result = exported(made, tmp_path / "out", push_to_hub="me/reader")
    assert result.pushed == f"{hub.url}/me/reader/commit/abc"
    with zipfile.ZipFile(result.archive) as archive:
        assert hub.files == {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    (request,) = hub.created
    assert (request["name"], request["organization"], request["visibility"]) == ("reader", "me", "private")
    assert hub.tokens == {"Bearer hf_secret"}
    answer = CliRunner().invoke(app, ["push", str(result.archive), "--to", "me/reader", "--public"])
    assert answer.exit_code == 0 and answer.output.strip() == result.pushed
    assert hub.created[1]["visibility"] == "public"


@pytest.mark.usefixtures("_no_registry")
def test_a_second_package_replaces_the_first_in_its_repository(made: Path, tmp_path: Path, hub: Hub) -> None:
    hub.files[".gitattributes"] = b"*.safetensors filter=lfs"
    exported(made, tmp_path / "one", push_to_hub="me/reader", include_base_model=True)
    assert "base_model/model.safetensors" in hub.files
    result = exported(made, tmp_path / "two", push_to_hub="me/reader")
    with zipfile.ZipFile(result.archive) as archive:
        files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert hub.files == {".gitattributes": b"*.safetensors filter=lfs", **files}
    assert hub.commits == 2


@pytest.mark.usefixtures("_no_registry")
def test_a_repository_of_other_things_is_left_alone(made: Path, tmp_path: Path, hub: Hub) -> None:
    exported(made, tmp_path / "out")
    there = {".gitattributes": b"*", "README.md": b"My data", "data.csv": b"1,2"}
    hub.files |= there
    with pytest.raises(UserError, match=r"contains something other than a package \(data.csv\)"):
        push_package(tmp_path / "out", "me/data")
    assert CliRunner().invoke(app, ["push", str(tmp_path / "out"), "--to", "me/data"]).exit_code != 0
    assert hub.files == there
    del hub.files["data.csv"]
    assert CliRunner().invoke(app, ["push", str(tmp_path / "out"), "--to", "me/data"]).exit_code == 0


@pytest.mark.usefixtures("_no_registry")
def test_a_repository_of_other_things_costs_the_export_step_a_warning(
    made: Path, tmp_path: Path, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.files["data.csv"] = b"1,2"
    result = exported(made, tmp_path / "out", push_to_hub="me/data", hub_public=True)
    assert result.pushed is None and zipfile.is_zipfile(result.archive)
    assert "not on the hub: me/data: the repository contains something other" in caplog.text
    assert f"later: deepsynth push {tmp_path / 'out'} --to me/data --public" in caplog.text
    assert hub.files == {"data.csv": b"1,2"}


@pytest.mark.usefixtures("_no_registry")
def test_a_downloaded_package_goes_on_without_what_the_hub_added(made: Path, tmp_path: Path, hub: Hub) -> None:
    exported(made, tmp_path / "out", push_to_hub="me/reader")
    first = dict(hub.files)
    for name, content in {**first, ".gitattributes": b"* text", ".cache/huggingface/x.metadata": b"abc"}.items():
        (path := tmp_path / "downloaded" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    hub.files.clear()
    assert CliRunner().invoke(app, ["push", str(tmp_path / "downloaded"), "--to", "you/reader"]).exit_code == 0
    assert hub.files == first


@pytest.mark.usefixtures("_no_registry")
def test_what_lies_beside_the_zip_is_not_sent_and_stops_nothing(made: Path, tmp_path: Path, hub: Hub) -> None:
    result = exported(made, tmp_path / "out")
    with zipfile.ZipFile(result.archive) as archive:
        archive.extractall(result.folder)
    assert CliRunner().invoke(app, ["push", str(result.folder), "--to", "me/reader"]).exit_code == 0
    assert "inference.py" in hub.files and not any(name.startswith("reader/") for name in hub.files)


@pytest.mark.usefixtures("_no_registry")
@pytest.mark.parametrize(("refuse", "mend"), [(403, "a token that may write"), (503, "try again later"), (None, "")])
def test_a_hub_that_refuses_or_is_gone_keeps_the_package(
    made: Path,
    tmp_path: Path,
    hub: Hub,
    refuse: int | None,
    mend: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.refuse = refuse
    if refuse is None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        result = exported(made, tmp_path / "out", push_to_hub="me/reader")
    assert result.pushed is None and zipfile.is_zipfile(result.archive)
    assert f"deepsynth push {tmp_path / 'out'} --to me/reader" in caplog.text
    assert mend in caplog.text and (refuse is None or str(refuse) in caplog.text)
    assert "hf_secret" not in caplog.text


@pytest.mark.usefixtures("_no_registry")
def test_without_a_token_nothing_is_begun(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError, match="HF_TOKEN: no token"):
        exported(made, tmp_path / "out", push_to_hub="me/reader")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"push_to_hub": "reader"}, {"push_to_hub": "a/b/c"}, {"register_as": "a/b"}])
def test_names_that_no_registry_takes_are_refused(made: Path, tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ExportConfig.model_validate(export_config(made, tmp_path / "out").model_dump() | wrong)
