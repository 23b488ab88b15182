"""Patterns in a stranger's adapter are bounded in time, and what is wrong in them is a user's error."""

import json
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from components.shared.errors import UserError
from components.shared.models import adapter_patterns
from components.shared.models.adapter_loading import load_fine_tuned
from components.shared.programs.time_limit import time_limit
from tests.fixtures.export_fixture import make_sources

YEARS = r"(([a-z_.0-9]+)+)+!"  # exponential in the length of a name without "!"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("made"))


def load(made: Path, adapter: Path) -> None:
    load_fine_tuned(str(made / "base"), adapter, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": YEARS}, r"adapter_config\.json: its patterns take over 0\.5 s"),
        ({"rank_pattern": {YEARS: 8}}, "its patterns take over"),
        ({"exclude_modules": YEARS}, "its patterns take over"),
        ({"layers_to_transform": [0], "layers_pattern": [YEARS]}, "its patterns take over"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"rank_pattern": 3}, "cannot be"),
    ],
)
def test_patterns_of_an_adapter_are_bounded(
    made: Path, tmp_path: Path, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_patterns, "_LONGEST_SECONDS", 0.5)
    adapter = shutil.copytree(made / "adapter", tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=said):
        load(made, adapter)


def test_an_adapters_settings_that_are_no_settings_are_refused(made: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(made / "adapter", tmp_path / "adapter")
    for content in ("[" * 100_000, "[]", "\0"):
        (adapter / "adapter_config.json").write_text(content)
        with pytest.raises(UserError, match=r"adapter_config\.json: cannot be read as an adapter's settings"):
            load(made, adapter)


def test_the_limit_restores_the_alarm_and_is_off_in_other_threads() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(1000.0, TimeoutError()):
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    passed: list[bool] = []

    def enter() -> None:
        with time_limit(1000.0, TimeoutError()):
            passed.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert passed == [True]


def test_patterns_are_bounded_in_a_services_thread_too(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signal reaches a thread, and ``re`` lets no other thread run meanwhile."""
    path = tmp_path / "adapter_config.json"
    names = ["model.layers.0.self_attn.q_proj"]
    with ThreadPoolExecutor(1) as pool:
        path.write_text(json.dumps({"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 8}}))
        pool.submit(adapter_patterns.check_adapter_patterns, path, names).result()
        path.write_text(json.dumps({"target_modules": "("}))
        with pytest.raises(UserError, match="not a regular expression"):
            pool.submit(adapter_patterns.check_adapter_patterns, path, names).result()
        monkeypatch.setattr(adapter_patterns, "_LONGEST_SECONDS", 0.5)
        path.write_text(json.dumps({"target_modules": YEARS}))
        with pytest.raises(UserError, match="its patterns take over"):
            pool.submit(adapter_patterns.check_adapter_patterns, path, [*names, "x" + "1" * 40]).result()
