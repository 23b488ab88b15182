"""Choices that depend on the visible GPUs (backend, device, other processes), tested with simulated GPUs."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from components.shared.errors import UserError
from components.shared.models.allocator_settings import let_segments_grow
from components.shared.models.unsloth_inference import load_with_unsloth
from components.train.backends.choice import choose_backend
from components.train.backends.standard import StandardBackend
from components.train.config import TrainConfig
from components.train.processes.distributed import join

TOO_OLD = "in bfloat16 it needs compute capability 8.0, a GPU here has 7.5"


def config_of(folder: Path, **settings: Any) -> TrainConfig:
    return TrainConfig(dataset_dir=folder, output_dir=folder / "out", compile_cache_dir=folder / "compiled", **settings)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            os.environ.pop(name, None)
        yield


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Compute capabilities of the CUDA devices that torch reports, for a test to change."""
    found = [(7, 5)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: found[device or 0])
    return found


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of ``from_pretrained`` calls to a fake ``unsloth`` package."""
    asked: list[dict[str, Any]] = []

    def from_pretrained(location: str, **options: Any) -> None:
        asked.append(options)
        raise ValueError("it only takes notes")

    package = ModuleType("unsloth")
    package.FastVisionModel = SimpleNamespace(from_pretrained=from_pretrained)  # type: ignore[attr-defined]
    find_spec = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "unsloth", package)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: package if name == "unsloth" else find_spec(name, *rest)
    )
    # The backend module is imported again with this package, and removed after the test.
    monkeypatch.setitem(sys.modules, "components.train.backends.unsloth", package)
    del sys.modules["components.train.backends.unsloth"]
    return asked


@pytest.mark.usefixtures("capabilities", "loads")
def test_unsloth_is_left_alone_on_a_gpu_without_bfloat16(tmp_path: Path) -> None:
    for dtype in ("auto", "bfloat16"):
        backend, reason = choose_backend(config_of(tmp_path, dtype=dtype))
        assert isinstance(backend, StandardBackend) and reason == TOO_OLD
        with pytest.raises(UserError, match=f"backend: Unsloth cannot run: {TOO_OLD}; set dtype to float32, or"):
            choose_backend(config_of(tmp_path, dtype=dtype, backend="unsloth"))
    assert choose_backend(config_of(tmp_path, dtype="float32"))[0].name == "unsloth"
    assert choose_backend(config_of(tmp_path, dtype="float32", backend="unsloth"))[0].name == "unsloth"


@pytest.mark.usefixtures("loads")
def test_the_weakest_gpu_decides_where_several_train(tmp_path: Path, capabilities: list[tuple[int, int]]) -> None:
    capabilities[:] = [(8, 6), (7, 5)]
    assert choose_backend(config_of(tmp_path))[0].name == "unsloth"
    os.environ["WORLD_SIZE"] = "2"
    assert choose_backend(config_of(tmp_path))[0].name == "standard"


@pytest.mark.usefixtures("capabilities", "loads")
def test_unsloth_reads_no_pages_on_a_gpu_without_bfloat16() -> None:
    with pytest.raises(UserError, match=f"backend: Unsloth cannot run: {TOO_OLD}; set it to standard"):
        load_with_unsloth("tiny-base", None, dtype=torch.bfloat16)


def test_the_allocator_is_set_up_before_cuda_starts(
    tmp_path: Path, capabilities: list[tuple[int, int]], loads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[str | None] = []

    def started(device: int | None = None) -> tuple[int, int]:
        settings.append(os.environ.get("PYTORCH_ALLOC_CONF"))
        return capabilities[0]

    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="6.8.0-generic"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", started)
    choose_backend(config_of(tmp_path))
    assert settings == ["expandable_segments:True"]


@pytest.mark.parametrize(
    ("release", "given", "expected"),
    [
        ("6.8.0-generic", {}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ("6.8.0-generic", {"PYTORCH_CUDA_ALLOC_CONF": "a"}, {"PYTORCH_CUDA_ALLOC_CONF": "a"}),
        ("5.15.167.4-microsoft-standard-WSL2", {}, {}),
    ],
)
def test_segments_grow_where_they_can(
    release: str, given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    os.environ.update(given)
    let_segments_grow()
    assert {name: value for name, value in os.environ.items() if name.endswith("_ALLOC_CONF")} == expected


def test_unsloth_is_given_the_process_own_device_alone(
    tmp_path: Path, capabilities: list[tuple[int, int]], loads: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    capabilities[:] = [(9, 0), (9, 0)]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    config = config_of(tmp_path, backend="unsloth", load_in_4bit=True)
    with pytest.raises(UserError, match="it only takes notes"):
        choose_backend(config)[0].load(config)
    with pytest.raises(UserError, match="it only takes notes"):
        load_with_unsloth("tiny-base", None, dtype=torch.bfloat16)
    assert [options["device_map"] for options in loads] == [{"": "cuda:1"}, {"": "cuda:1"}]


def test_a_process_that_knows_only_its_rank_exchanges_gradients(
    capabilities: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    os.environ.update(RANK="1", WORLD_SIZE="2")
    join()
    assert PartialState.__new__(PartialState)._prepare_backend() == ("nccl", DistributedType.MULTI_GPU)
    assert chosen == [0]
