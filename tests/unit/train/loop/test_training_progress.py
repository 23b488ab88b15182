"""A running training: evaluation, early stopping, batches of similar length, and MLflow's metrics."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from peft import PeftModel
from pydantic import ValidationError

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from components.train.backends.quantization import quantize_experts
from components.train.batches.collator import PageCollator
from components.train.batches.length_grouping import LengthGroupedPages, page_lengths
from components.train.config import TrainConfig
from components.train.loop.held_out_reading import error_rates, held_out_sample
from components.train.loop.measurements import TrainingMeasurements
from components.train.loop.time_estimate import training_time
from components.train.loop.utilization import LanguageModelFlops, peak_flops
from components.train.step import run
from tests.fixtures.training_fixture import base_and_dataset, boats, one_thread_and_no_tracking, train_config

SETTINGS: dict[str, Any] = {
    "backend": "standard",
    "max_steps": 5,
    "per_device_train_batch_size": 4,
    "learning_rate": 5e-3,
    "lora_dropout": 0.1,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a blank base model and a dataset of 48 training pages of 1 to 8 lines."""
    return base_and_dataset(tmp_path_factory.mktemp("made"), boats(60, 8), pages=48, lines_per_page=(8, 8))


def config_of(made: Path, output: Path, **changes: Any) -> TrainConfig:
    return train_config(made, output, SETTINGS | changes)


@pytest.fixture(scope="module")
def plain(made: Path) -> dict[str, Any]:
    return run(config_of(made, made / "plain")).training.model_dump()


def test_evaluation_measures_held_out_pages_and_leaves_the_training_as_it_was(
    made: Path, plain: dict[str, Any], tmp_path: Path
) -> None:
    evaluation = {"eval_steps": 2, "max_eval_samples": 3, "eval_pages": 2}
    evaluated = run(config_of(made, tmp_path / "out", **evaluation)).training.model_dump()
    assert evaluated["losses"] == plain["losses"], "with dropout, so that a used random number would be seen"
    assert evaluated["eval_steps"] == [2, 4, 5]
    assert len(set(evaluated["eval_losses"])) == 3 and all(0 < loss < 10 for loss in evaluated["eval_losses"])
    assert len(evaluated["eval_cers"]) == len(evaluated["eval_wers"]) == 3
    assert all(rate > 0.5 for rate in evaluated["eval_cers"] + evaluated["eval_wers"]), "the base is a blank model"
    assert plain["eval_steps"] == []


def test_the_held_out_loss_is_the_models(made: Path, tmp_path: Path) -> None:
    settings = {"eval_steps": 1, "max_steps": 1, "max_eval_samples": 2, "eval_pages": 0, "lora_dropout": 0.0}
    evaluated = run(config_of(made, tmp_path / "out", **settings, learning_rate=1e-30)).training.model_dump()
    model: Any = load_model(str(made / "base"), dtype=torch.float32, device=torch.device("cpu")).eval()
    pages = ShardDataset(made / "dataset", "eval")
    collator = PageCollator(load_processor(str(made / "base")), family_of("paddleocr_vl"), 4096)
    with torch.no_grad():
        losses = {
            (first, second): model(**collator([pages[first], pages[second]])).loss.item()
            for first in range(len(pages))
            for second in range(len(pages))
            if first != second
        }
    assert any(loss == pytest.approx(evaluated["eval_losses"][0], rel=1e-5) for loss in losses.values())


@pytest.mark.slow
def test_early_stopping_takes_the_best_weights(made: Path, tmp_path: Path) -> None:
    settings = {"eval_steps": 1, "early_stopping_patience": 2, "max_eval_samples": 4, "eval_pages": 0, "max_steps": 20}
    result = run(config_of(made, tmp_path / "out", **settings, learning_rate=0.3, lr_scheduler_type="constant"))
    losses, best = result.training.eval_losses, result.training.best_step
    assert result.training.steps == len(losses) < 20
    assert best == result.training.eval_steps[losses.index(min(losses))] == len(losses) - 2
    base: Any = load_model(str(made / "base"), dtype=torch.float32, device=torch.device("cpu"))
    tuned = PeftModel.from_pretrained(base, str(result.folder)).eval()
    sample = held_out_sample(config_of(made, tmp_path / "unused", **settings))
    collator = PageCollator(load_processor(str(made / "base")), family_of("paddleocr_vl"), 4096)
    with torch.no_grad():
        loss = tuned(**collator([sample[index] for index in range(4)])).loss.item()
    assert loss == pytest.approx(min(losses), rel=1e-4), "the adapter that was written is the best one"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"save_steps": 2}, "save_steps needs a checkpoint_dir"),
        ({"early_stopping_patience": 2}, "needs eval_steps"),
        ({"early_stopping_patience": 2, "eval_steps": 2, "save_steps": 4, "checkpoint_dir": "c"}, "save_steps is"),
        (
            {"early_stopping_patience": 2, "eval_steps": 2, "metric_for_best_model": "eval_cer", "eval_pages": 0},
            "needs eval_pages",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(made: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config_of(made, made / "unused", **changes)


def test_error_rates_are_over_all_pages() -> None:
    assert error_rates(["ab  cd", "", "efgh"], ["ab\ncd", "x", "efg"]) == {
        "cer": pytest.approx(2 / 9),  # one insertion and one deletion in "ab cd" and "efgh"
        "wer": pytest.approx(2 / 3),
    }


@pytest.mark.slow
def test_grouped_pages_need_less_padding_in_an_order_of_seed_and_epoch(
    made: Path, plain: dict[str, Any], tmp_path: Path
) -> None:
    grouped = run(
        config_of(made, tmp_path / "out", group_by_length=True, num_train_epochs=1, max_steps=12)
    ).training.model_dump()
    loose = run(config_of(made, tmp_path / "loose", num_train_epochs=1, max_steps=12)).training.model_dump()
    assert sum(grouped["samples_per_step"]) == sum(loose["samples_per_step"]) == 48
    assert sum(grouped["tokens_per_step"]) == sum(loose["tokens_per_step"]), "one epoch: the same pages"
    padding = [
        1 - sum(training["tokens_per_step"]) / sum(training["padded_tokens_per_step"]) for training in (grouped, loose)
    ]
    assert padding[0] < 0.6 * padding[1]


def test_lengths_are_close_to_the_tokens(made: Path) -> None:
    dataset = ShardDataset(made / "dataset", "train")
    collator = PageCollator(load_processor(str(made / "base")), family_of("paddleocr_vl"), 4096)
    counted = [int(collator([page])["attention_mask"].sum()) for page in dataset]
    for estimated, tokens in zip(page_lengths(dataset, collator), counted, strict=True):
        assert abs(estimated - tokens) < 0.15 * tokens + 5


def test_every_page_is_taken_once_an_epoch() -> None:
    lengths = [index * 7 % 50 for index in range(100)]
    pages = LengthGroupedPages(lengths, 4, seed=3)
    first = list(pages)
    assert sorted(first) == list(range(100)) and first == list(pages)
    pages.set_epoch(1)
    second = list(pages)
    assert sorted(second) == list(range(100)) and second != first
    assert list(LengthGroupedPages(lengths, 4, seed=4)) != first
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches(first, 4)]
    assert sum(spread) / len(spread) < 12, "50 without grouping"


def batches(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_mlflow_gets_the_rates_while_it_trains(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="components")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    training = run(config_of(made, tmp_path / "out", eval_steps=5, eval_pages=1, max_eval_samples=2, logging_steps=2))
    client = MlflowClient(store)
    (tracked,) = client.search_runs([client.get_experiment_by_name("deepsynth").experiment_id])
    assert tracked.data.tags["deepsynth.planned_steps"] == "5"
    metrics = tracked.data.metrics
    assert {"loss", "learning_rate", "grad_norm", "eval_loss", "eval_cer", "eval_wer"} <= metrics.keys()
    history = {name: client.get_metric_history(tracked.info.run_id, name) for name in metrics}
    assert [entry.step for entry in history["tokens_per_second"]] == [2, 4, 5], "and the last step"
    assert [entry.step for entry in history["eval_cer"]] == [5]
    measured = training.training.model_dump()
    for place, entry in enumerate(history["samples_per_second"]):
        two = slice(2 * place, 2 * place + 2)  # the last slice has one step only
        seconds = sum(measured["step_seconds"][two]) + sum(measured["data_wait_seconds"][two])
        assert entry.value == pytest.approx(sum(measured["samples_per_step"][two]) / seconds)
        assert history["tokens_per_second"][place].value == pytest.approx(
            sum(measured["tokens_per_step"][two]) / seconds
        )
        waited = sum(measured["data_wait_seconds"][two]) / seconds
        assert 0 < history["data_wait_share"][place].value == pytest.approx(waited)
    assert "mfu" not in metrics, "no peak is known for a CPU"
    made_in = [sum(pair) for pair in zip(measured["step_seconds"], measured["data_wait_seconds"], strict=False)]
    predicted = sum(made_in[:4]) + median(made_in[1:4])
    assert metrics["estimated_training_seconds"] == pytest.approx(predicted, abs=0.001), "said after step 4, of all 5"
    assert "the training takes about" in caplog.text and "5 steps of" in caplog.text


def test_the_time_of_a_training_is_predicted_once_in_each_process_and_not_for_a_short_one() -> None:
    seconds = [9.0, 1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0, 5.0]
    told = {
        (done, resumed): training_time(seconds[:done], [0.5] * done, planned=9, resumed_after=resumed)
        for done in range(1, 10)
        for resumed in (0, 4, 7)
    }
    assert {place: found.seconds for place, found in told.items() if found} == {
        (4, 0): pytest.approx(17.0 + 5 * 2.5),
        (8, 4): pytest.approx(26.0 + 1 * 1.5),
    }
    assert training_time([1.0] * 4, [0.0] * 4, planned=4) is None, "it has ended"


def test_mfu_is_the_work_by_what_the_device_could_do() -> None:
    measured = TrainingMeasurements()
    for _ in range(2):
        measured.begin_step()
        measured.count([30, 10], padded_length=30, flops=5e12)
        measured.data_wait_seconds.append(0.1)
        measured.step_seconds.append(0.4)
    rates = measured.rates(2, peak=100e12)
    assert rates["mfu"] == pytest.approx(0.1)
    assert rates["data_wait_share"] == pytest.approx(0.2)
    assert rates["padding_share"] == pytest.approx(1 / 3)
    assert rates["tokens_per_second"] == pytest.approx(80)
    assert "mfu" not in measured.rates(2, peak=None)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
    ],
)
def test_the_peak_is_known_by_the_devices_name(name: str, tera: int) -> None:
    assert peak_flops(name) == tera * 1e12
    assert peak_flops("NVIDIA L40S") is None and peak_flops("NVIDIA GeForce RTX 4090") is None


def test_flops_follow_the_formula(made: Path, tmp_path: Path) -> None:
    model: Any = load_model(str(made / "base"), dtype=torch.float32, device=torch.device("cpu"))
    # Five layers of width 192 with 4 heads of 48, an MLP of 512, and 320 outputs.
    weights = 5 * (4 * 192 * 192 + 3 * 192 * 512) + 192 * 320
    pairs = 12 * 5 * 4 * 48
    assert LanguageModelFlops(model).of_rows([7, 3]) == 6 * weights * 10 + pairs * (49 + 9)
    model.requires_grad_(False)
    assert LanguageModelFlops(model).of_rows([7]) == 4 * weights * 7 + pairs * 49


@pytest.mark.parametrize("packed", [False, True])
def test_experts_count_as_often_as_a_token_visits_them(tmp_path: Path, packed: bool) -> None:
    save_tiny_deepseek_ocr2(tmp_path / "deepseek")
    model: Any = load_model(str(tmp_path / "deepseek"), dtype=torch.float32, device=torch.device("cpu"))
    model.requires_grad_(False)
    before = LanguageModelFlops(model).per_token
    if packed:
        pytest.importorskip("bitsandbytes")
        quantize_experts(model, 4, checkpointing=False)
        assert LanguageModelFlops(model).per_token == before
    values = 2 * 32 * 64 + 64 * 32  # the values of one expert; one layer has experts
    visited = model.config.text_config.num_experts_per_tok
    model.config.text_config.num_experts_per_tok = visited + 1
    assert LanguageModelFlops(model).per_token - before == 4 * values
