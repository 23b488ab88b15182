"""All forms of out-of-memory errors are recognised: fewer pages are then read, measured or trained at a time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.evaluate.readers.generation import transcribe
from components.evaluate.readers.pages import EvaluationPages
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.programs.machine_failures import MachineFailureError, named_failures, ran_out_of_device_memory
from components.shared.reading.transcriber import Prediction, PreparedPages, Transcriber
from components.shared.tiny_base_recipe.tiny_models import save_blank_paddleocr_vl
from components.train.backends.protocol import TrainableModel
from components.train.config import TrainConfig
from components.train.probes import capacity, generation_speed
from components.train.probes.probe import ProbeConfig
from components.train.probes.probe import run as probe_model
from tests.fixtures.dataset_fixture import Page, write_dataset
from tests.fixtures.short_recordings import ShortRecordings

PAGES = [Page(f"page {'x' * count}", f"{count}") for count in range(4)]

ENGINE = "GET was unable to find an engine to execute this computation"
ATTENTION = "Expected mha_graph.execute(handle, variant_pack, workspace_ptr.get()).is_good() to be true, but got false."
CAPTURE = "CUDA error: operation failed due to a previous error during capture"


def wrapped(error: Exception, outer: Exception) -> Exception:
    """Return ``outer`` as if it was raised while ``error`` was being handled."""
    outer.__context__ = error
    return outer


SHORT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError(ENGINE),
    RuntimeError(ATTENTION),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in the documentation"),
    wrapped(torch.OutOfMemoryError("CUDA out of memory."), torch.AcceleratorError(CAPTURE)),
    wrapped(torch.OutOfMemoryError("CUDA out of memory."), ValueError("the compiler failed")),
]
OTHERS = [
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError(CAPTURE),
    ValueError("the text says: CUDA out of memory"),
    MemoryError(),
]


TYPICAL = [SHORT_OF_MEMORY[0], SHORT_OF_MEMORY[1], RuntimeError(ATTENTION), *SHORT_OF_MEMORY[-3:]]
"""One of each class: the allocator's, a library's, one that hides the reason, the runtime's, and two around others."""


def name_of(error: Exception) -> str:
    return f"{type(error).__name__}-{str(error)[:50]}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    save_blank_paddleocr_vl(folder)
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return load_model(str(base), dtype=torch.float32, device=torch.device("cpu")).eval()


@pytest.fixture(scope="module")
def processor(base: Path) -> Any:
    return load_processor(str(base))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "dataset"
    write_dataset(folder, PAGES)
    return folder


@pytest.fixture(scope="module")
def pages(dataset: Path) -> EvaluationPages:
    return EvaluationPages(ShardDataset(dataset, "eval"), None, 0)


@pytest.fixture(scope="module")
def texts(model: Any, processor: Any, pages: EvaluationPages) -> list[str]:
    """The model's transcription of each page in a batch of its own."""
    found = transcribe(pages, reader_with(model, processor), 1, "base").predictions
    assert not any(page.error for page in found)
    return [page.text for page in found]


@pytest.fixture
def reader(model: Any, processor: Any) -> Transcriber:
    return reader_with(model, processor)


@pytest.fixture
def failing(model: Any, processor: Any) -> "Failing":
    reader = reader_with(model, processor, Failing)
    assert isinstance(reader, Failing)
    return reader


def reader_with(model: Any, processor: Any, kind: type[Transcriber] = Transcriber) -> Transcriber:
    return kind(model, processor, family_of("paddleocr_vl"), 6)


class Failing(Transcriber):
    """Raises ``error`` if a batch has more pages than ``room``."""

    error: Exception
    room = 1

    def read_prepared(self, prepared: PreparedPages) -> list[Prediction]:
        if prepared.pages > self.room:
            raise self.error
        return super().read_prepared(prepared)


@pytest.mark.parametrize("error", SHORT_OF_MEMORY, ids=name_of)
def test_too_little_memory_is_known_by_its_words(error: Exception) -> None:
    assert ran_out_of_device_memory(error)
    said = r"GPU: train (ran out of memory|failed, as it does where memory is short) \("
    with pytest.raises(MachineFailureError, match=said), named_failures("train"):
        raise error


@pytest.mark.parametrize("error", OTHERS, ids=name_of)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert not ran_out_of_device_memory(error)


@pytest.mark.parametrize("error", TYPICAL, ids=name_of)
def test_the_batch_is_halved_and_every_page_is_read(
    failing: Failing, pages: EvaluationPages, texts: list[str], error: Exception
) -> None:
    failing.error = error
    found = transcribe(pages, failing, 4, "base")
    assert (found.memory_halvings, found.batch_size) == (2, 1)  # 4 -> 2 -> 1
    assert [(page.text, page.error) for page in found.predictions] == [(text, None) for text in texts]


def test_a_page_that_alone_is_too_much_fails_alone_and_is_named(
    reader: Transcriber, pages: EvaluationPages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    longest = pages[pages.by_expected_length()[0]]
    read_prepared, calls = reader.read_prepared, iter(range(100))

    def read(prepared: PreparedPages) -> list[Prediction]:
        if next(calls) == 0:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return read_prepared(prepared)

    monkeypatch.setattr(reader, "read_prepared", read)
    found = transcribe(pages, reader, 1, "base")
    assert [page.error for page in found.predictions if page.error] == ["AcceleratorError: CUDA error: out of memory"]
    assert f"page {longest.key} failed: AcceleratorError: CUDA error: out of memory" in caplog.text


@pytest.mark.parametrize("room", [0, 1])
def test_a_broken_device_ends_the_evaluation(failing: Failing, pages: EvaluationPages, room: int) -> None:
    failing.error, failing.room = torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), room
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        transcribe(pages, failing, 4, "base")


def test_why_a_batch_is_read_page_by_page_is_logged(
    failing: Failing, pages: EvaluationPages, caplog: pytest.LogCaptureFixture
) -> None:
    failing.error = TypeError("a fault of the program")
    found = transcribe(pages, failing, 4, "base")
    assert found.memory_halvings == 0 and not any(page.error for page in found.predictions)
    assert "its 4 pages are read one by one: TypeError: a fault of the program" in caplog.text


@pytest.mark.parametrize("error", TYPICAL, ids=name_of)
def test_a_recording_without_memory_halves_the_batch_and_the_next_is_recorded(
    reader: Transcriber,
    pages: EvaluationPages,
    texts: list[str],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = ShortRecordings(monkeypatch, error, error)
    found = transcribe(pages, reader, 4, "base")
    assert (found.memory_halvings, found.batch_size) == (2, 1)
    assert [page.text for page in found.predictions] == texts
    assert "generating step by step" not in caplog.text
    assert (device.pools, device.stream) == (0, "the default stream")


def test_a_page_whose_recording_does_not_fit_is_read_step_by_step(
    reader: Transcriber,
    pages: EvaluationPages,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = ShortRecordings(monkeypatch, torch.AcceleratorError("CUDA error: out of memory\nand more"))
    found = transcribe(pages, reader, 1, "base")
    assert [page.text for page in found.predictions] == texts
    (said,) = [record.getMessage() for record in caplog.records if "step by step" in record.getMessage()]
    assert said.endswith(": out of memory with a single page (CUDA error: out of memory)")
    assert (found.memory_halvings, device.pools, device.stream) == (0, 0, "the default stream")


def test_of_a_recording_that_fails_otherwise_nothing_stays_either(
    reader: Transcriber,
    pages: EvaluationPages,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = ShortRecordings(monkeypatch, torch.AcceleratorError(CAPTURE))
    found = transcribe(pages, reader, 4, "base")
    assert [page.text for page in found.predictions] == texts and found.memory_halvings == 0
    assert f"generating step by step, several times slower: {CAPTURE}" in caplog.text
    assert (device.pools, device.stream) == (0, "the default stream")


@pytest.mark.parametrize("error", TYPICAL, ids=name_of)
def test_a_training_that_runs_out_of_memory_does_not_fit(
    processor: Any, dataset: Path, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(trainable: Any, pages: Any, config: TrainConfig, *_: Any) -> Any:
        if config.per_device_train_batch_size > 3:
            raise error
        return SimpleNamespace(tokens_per_step=[8], step_seconds=[1.0] * 5, samples_per_step=[3])

    monkeypatch.setattr(capacity, "train", train)
    model: Any = torch.nn.Linear(1, 1)
    trainable = TrainableModel(model, processor, family_of("paddleocr_vl"))
    config = TrainConfig(dataset_dir=dataset, output_dir=tmp_path)
    found = capacity.largest_batch(trainable, config, ShardDataset(dataset, "train")[0], tmp_path, limit=8)
    assert found["pages"] == 3 and [trial["fits"] for trial in found["trials"]] == [True, True, False, True, True]


def test_a_probe_goes_on_after_a_part_without_memory_and_ends_where_the_device_is_broken(
    base: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ProbeConfig(
        train={"dataset_dir": str(dataset), "base_model": str(base), "output_dir": str(tmp_path)},
        result_file=tmp_path / "probes.json",
    )

    def probed(error: Exception) -> dict[str, Any]:
        def fail(*_: Any) -> dict[str, Any]:
            raise error

        monkeypatch.setattr(generation_speed, "generation_speed", fail)
        return probe_model(config)

    measured = probed(torch.AcceleratorError("CUDA error: out of memory"))
    assert measured["generation"] == {"status": "failed", "reason": "AcceleratorError: CUDA error: out of memory"}
    assert measured["longest_context"]["status"] == "skipped"
    with pytest.raises(torch.AcceleratorError, match="illegal"):
        probed(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
