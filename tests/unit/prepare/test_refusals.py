"""Servers that refuse: the hub with an expired token, MLflow with wrong credentials or an error of its own."""

import logging
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from components.prepare.documents.source_reading import SourceReading
from components.prepare.settings.source_settings import SourceSettings
from components.prepare.sources.hugging_face import read_hugging_face
from components.prepare.sources.opening import source_digest
from components.shared.errors import UserError
from components.shared.models.base_models import check_base_model_can_be_had
from components.shared.models.hub import hub_is_reachable
from components.shared.tracking.step_run import step_run
from tests.fixtures.refusing_server import RefusingServer, refusing_server

EXPIRED = 'User Access Token "ci" is expired'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[RefusingServer]:
    with refusing_server(request.param, EXPIRED) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_old")
        hub_is_reachable.cache_clear()
        yield server
    hub_is_reachable.cache_clear()


@pytest.mark.parametrize("hub", [401, 403], indirect=True)
def test_an_expired_token_is_named_before_anything_is_trained(hub: RefusingServer) -> None:
    asked = {
        "base_model 'me/reader'": lambda: check_base_model_can_be_had("me/reader", None),
        "hf:me/pages": lambda: source_digest(SourceSettings(source="hf:me/pages")),
    }
    for where, ask in asked.items():
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value).startswith(f"{where}: the hub refuses the token of HF_TOKEN (4")
        assert EXPIRED in str(caught.value) and "make a new one" in str(caught.value)
    with pytest.raises(UserError, match="refuses the token of HF_TOKEN"):
        list(read_hugging_face("me/pages", SourceReading(SourceSettings(source="hf:me/pages"))))
    assert {"models", "datasets"} <= {path.split("/")[2] for path in hub.asked}


@pytest.mark.parametrize("hub", [401], indirect=True)
def test_without_a_token_one_is_asked_for(hub: RefusingServer, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"to nobody without a token.*set HF_TOKEN"):
        check_base_model_can_be_had("me/private", None)


@pytest.mark.parametrize("hub", [404], indirect=True)
def test_a_model_that_is_not_there_is_not_the_tokens_fault(hub: RefusingServer) -> None:
    with pytest.raises(UserError, match="base_model 'me/typo': the hub answers 404"):
        check_base_model_can_be_had("me/typo", None)


@pytest.mark.parametrize(("status", "named"), [(401, True), (403, True), (500, False)])
def test_an_mlflow_server_that_refuses_costs_one_warning(
    status: int, named: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "old")
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    with refusing_server(status) as server, caplog.at_level(logging.WARNING, logger="components"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with step_run("train", {"seed": 1}) as tracked:
            tracked.log_metrics({"loss": 0.5}, step=1)
            tracked.set_tags({"a": "b"})
        assert server.asked
    (warning,) = [record.message for record in caplog.records]
    assert server.url in warning and "the step goes on, its results are on disk" in warning and str(status) in warning
    assert ("the server refuses the credentials (MLFLOW_TRACKING_TOKEN, or" in warning) is named
