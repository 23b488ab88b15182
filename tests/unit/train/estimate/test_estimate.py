"""The memory estimate: compared with peaks measured on a GPU and with models that were built, and as a user sees it."""

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from components.benchmark.contenders.full_size_model import save_without_weights
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from components.train.backends.standard import StandardBackend
from components.train.config import TrainConfig
from components.train.estimate.gpu_limits import KNOWN_ERROR, GpuLimits, gpu_limits
from components.train.estimate.memory_estimate import MemoryEstimate, Pages, estimate_memory
from components.train.estimate.preflight import check_memory
from components.train.estimate.step_trace import GpuOnMeta, MemoryTrace
from tests.fixtures.dataset_fixture import Page, write_dataset

pytestmark = pytest.mark.slow

MEASURED = Path(__file__).parents[4] / "docs" / "benchmarks" / "training"
DEEPSYNTH = str(Path(sys.executable).with_name("deepsynth"))
GIB = 2**30


def measured_cases() -> Any:
    spec = importlib.util.spec_from_file_location("estimate_table", MEASURED / "estimate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full-size")
    save_without_weights(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-deepseek")
    save_tiny_deepseek_ocr2(folder)
    return folder


def train_config(base_model: Path | str, **settings: Any) -> TrainConfig:
    values = {"dataset_dir": "dataset", "output_dir": "adapter", "backend": "standard", **settings}
    return TrainConfig(base_model=str(base_model), **values)


def estimate(base_model: Path | str, pages: Pages, backend: str = "standard", **settings: Any) -> MemoryEstimate:
    return estimate_memory(train_config(base_model, **settings), pages, backend)


@pytest.mark.parametrize(
    "name",
    [
        *("16-standard", "16-standard-gc", "4-standard", "4-bit, standard", "4-bit below 24 GiB, standard"),
        *("8-bit, standard", "4-bit, unsloth", "8-bit, unsloth", "16-bit, unsloth", "4-bit, crops, unsloth"),
        *("4-bit below 24 GiB, unsloth", "4-bit below 24 GiB, kept features, unsloth"),
    ],
)
def test_peaks_measured_on_a_gpu_are_predicted_within_the_known_error(full_size: Path, name: str) -> None:
    table = measured_cases()
    case = next(case for case in (*table.cases(), *table.benchmark_cases()) if case["name"] == name)
    row = table.predicted(case, full_size)
    assert abs(row["error"]) < KNOWN_ERROR and not row["upper_bound"]
    assert row["trainable_parameters"] == case["trainable_parameters"]
    assert abs(row["loading_peak_bytes"] / row["measured_loading_bytes"] - 1) < KNOWN_ERROR
    frozen = {name: counts["bytes"] for name, counts in case["details"]["frozen_weights"].items()}
    assert row["weight_bytes"] == frozen


def test_the_estimates_table_is_that_of_todays_code(full_size: Path) -> None:
    table = measured_cases()
    kept = json.loads((MEASURED / "estimate.json").read_text())
    cases = {case["name"]: case for case in table.cases()}
    assert [row["name"] for row in kept] == list(cases)
    assert all(abs(row["error"]) < KNOWN_ERROR for row in kept)
    for name in ("4-bit, unsloth", "4-bit, 2 GPUs, unsloth"):
        row = next(row for row in kept if row["name"] == name)
        assert table.predicted(cases[name], full_size)["peak_bytes"] == pytest.approx(row["peak_bytes"], rel=0.01)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_a_step_adds_through_unsloth_is_what_was_alive_at_its_peak(full_size: Path, number: int) -> None:
    peak = json.loads((MEASURED / "run-24-peaks.json").read_text())[number]
    case = next(case for case in measured_cases().benchmark_cases() if case["name"] == "4-bit, unsloth")
    settings = case["settings"] | {"gradient_checkpointing": True, "load_in_4bit": peak["bits"] == 4}
    settings |= {"base_model": str(full_size), "per_device_train_batch_size": peak["batch"]}
    pages = Pages(640, 640, peak["rows"] // peak["batch"])
    predicted = estimate_memory(TrainConfig.model_validate(settings), pages, "unsloth")
    assert predicted.peak_bytes == pytest.approx(peak["peak_bytes"], rel=0.02)


@pytest.mark.parametrize("settings", [{}, {"finetune_vision_layers": True, "r": 4}, {"peft": "none"}])
def test_parameters_are_those_of_the_model_that_is_trained(tiny_deepseek: Path, settings: dict[str, Any]) -> None:
    predicted = estimate(tiny_deepseek, Pages(192, 192, 300), **settings)
    model = StandardBackend().load(train_config(tiny_deepseek, **settings)).model
    assert predicted.parameters == sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert predicted.trainable_parameters == trained
    assert predicted.parts["optimizer"] == 8 * trained  # AdamW: two float32 numbers for each


@pytest.mark.parametrize("backend", ["standard", "unsloth"])
def test_what_saves_memory_is_seen_to_save_it(backend: str) -> None:
    pages = Pages(224, 224, 3000)
    plain = estimate("tiny-base", pages, backend)
    checkpointed = estimate("tiny-base", pages, backend, gradient_checkpointing=True)
    single = estimate("tiny-base", pages, backend, per_device_train_batch_size=1)
    packed = estimate("tiny-base", pages, backend, load_in_4bit=True)
    seen = estimate("tiny-base", pages, backend, gradient_checkpointing=True, vision_features_dir="features")
    assert seen.peak_bytes < checkpointed.peak_bytes
    of_two = estimate("tiny-base", pages, backend, gradient_checkpointing=True, num_gpus=2)
    assert of_two.parts == {**checkpointed.parts, "gradient buckets": checkpointed.parts["adapter"]}
    assert checkpointed.peak_bytes < plain.peak_bytes
    assert single.parts["activations"] * 7 < plain.parts["activations"] < single.parts["activations"] * 9
    assert packed.parts["weights"] < 0.8 * plain.parts["weights"]
    assert packed.parameters == plain.parameters
    assert plain.upper_bound == (backend == "unsloth") and not checkpointed.upper_bound


def test_full_fine_tuning_holds_float32_weights_gradients_and_two_moments(tiny_deepseek: Path) -> None:
    predicted = estimate(tiny_deepseek, Pages(192, 192, 300), peft="none", per_device_train_batch_size=1)
    assert predicted.parts["trained weights"] == 4 * predicted.parameters
    assert predicted.trainable_parameters == predicted.parameters
    assert predicted.peak_bytes > 16 * predicted.parameters
    leaner = estimate(
        tiny_deepseek, Pages(192, 192, 300), peft="none", per_device_train_batch_size=1, optim="adamw_8bit"
    )
    assert leaner.parts["optimizer"] == 2 * predicted.parameters


def test_a_trace_counts_what_autograd_keeps_and_forgets_what_is_freed() -> None:
    weight = torch.empty(1024, 1024, device="meta", requires_grad=True)
    inputs = torch.empty(512, 1024, device="meta")
    with MemoryTrace(vocabulary=7) as trace, GpuOnMeta(None):
        for known in (weight, inputs):
            trace.leave_out(known)
        hidden = torch.nn.functional.linear(inputs, weight)  # 2 MiB
        torch.autograd.backward([hidden.relu().sum()])
    megabytes = sum(trace.peak.values()) / 2**20
    # hidden, relu's output, its expanded gradient (none: a view), relu's gradient, the weight's gradient (4 MiB)
    assert 8 <= megabytes < 11


def test_autocast_of_a_gpu_happens_without_one() -> None:
    inputs, weight = torch.empty(8, 16, device="meta"), torch.empty(4, 16, device="meta")
    with GpuOnMeta(torch.bfloat16):
        product = torch.nn.functional.linear(inputs, weight)
        assert product.dtype == torch.bfloat16
        assert torch.softmax(product, dim=-1).dtype == torch.float32


def test_the_largest_batch_and_context_fit_and_a_tenth_more_do_not(full_size: Path) -> None:
    config = train_config(full_size, load_in_4bit=True, gradient_checkpointing=True, per_device_train_batch_size=4)
    pages = Pages(640, 640, 1024)
    predicted = estimate_memory(config, pages, "standard")
    row, small = gpu_limits(config, pages, predicted, 1024, {"small": 10, "tiny": 4})
    assert not row.fits and row.largest_batch and row.longest_context == 1024
    assert small == GpuLimits("tiny", small.usable_bytes, False, None, None)

    def needed(batch: int) -> float:
        grown = config.model_copy(update={"per_device_train_batch_size": batch})
        return estimate_memory(grown, pages, "standard").peak_bytes * (1 + KNOWN_ERROR)

    assert needed(row.largest_batch) <= row.usable_bytes < needed(row.largest_batch + 2)


def test_pages_that_leave_no_room_for_text_are_refused(tiny_deepseek: Path) -> None:
    with pytest.raises(UserError, match=r"picture and prompt take \d+ tokens, and there are 20"):
        estimate(tiny_deepseek, Pages(192, 192, 20))


def test_training_is_refused_where_it_cannot_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dataset(tmp_path / "data", [Page("The quick brown fox", "a")])
    dataset = ShardDataset(tmp_path / "data", "train")
    config = train_config("tiny-base")
    with pytest.raises(UserError, match=r"GPU memory: 0.1 GiB are predicted at the peak, and 0.0 GiB are free"):
        check_memory(config, dataset, "standard", 2**20)
    with caplog.at_level(logging.WARNING):
        fitting = check_memory(config.model_copy(update={"ignore_memory_estimate": True}), dataset, "standard", 2**20)
    assert fitting and "it may run out of memory" in caplog.text


@pytest.mark.parametrize(("free_over_peak", "warned"), [(0.95, True), (1.05, True), (1.15, False)])
def test_a_training_that_may_fit_starts_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, free_over_peak: float, warned: bool
) -> None:
    write_dataset(tmp_path / "data", [Page("The quick brown fox", "a")])
    dataset = ShardDataset(tmp_path / "data", "train")
    config = train_config("tiny-base")
    known = check_memory(config, dataset, "standard", 2**40)
    assert known and "it may run out of memory" not in caplog.text
    with caplog.at_level(logging.WARNING):
        assert check_memory(config, dataset, "standard", int(free_over_peak * known.peak_bytes)) == known
    assert ("it may run out of memory" in caplog.text) == warned


def test_the_command_prints_and_writes_the_estimate(tmp_path: Path) -> None:
    command = [DEEPSYNTH, "estimate", "--preset", "minimal", "--no-limits", "--json", str(tmp_path / "e.json")]
    answer = subprocess.run([*command, "--set", "backend=standard"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "parameters are trained" in " ".join(answer.stdout.split())
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["peak_bytes"] == sum(figures["parts"].values())
    assert figures["backend"] == "standard"


def test_the_presets_are_printed() -> None:
    answer = subprocess.run([DEEPSYNTH, "presets"], capture_output=True, text=True, check=True)
    assert {"minimal", "high_capacity", "unsloth_long_context"} <= set(answer.stdout.split())
