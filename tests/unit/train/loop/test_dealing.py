"""A CPU batch that is dealt out to single threads: the same training as undealt, whatever the number of threads."""

import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from components.shared.datasets.shard_reader import ShardDataset
from components.shared.digests import sha256_file
from components.train.backends.standard import StandardBackend
from components.train.batches.collator import PageCollator, parts_of
from components.train.batches.rope_positions import rope_positions_of
from components.train.loop import dealing
from components.train.loop.dealing import DealingThreads, model_obstacle
from components.train.loop.micro_batches import MicroBatchTrainer
from components.train.step import TrainResult, run
from tests.fixtures.tiny_families import TINY_FAMILIES
from tests.fixtures.training_fixture import base_and_boats, one_thread_and_no_tracking, train_config

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a CUDA device")

ADAPTER = "adapter_model.safetensors"
# 18 pages in a step: a batch of 12 and one of 6.
SETTINGS: dict[str, Any] = {
    **{"backend": "standard", "max_steps": 3, "learning_rate": 5e-3, "finetune_vision_layers": True},
    **{"per_device_train_batch_size": 12, "gradient_accumulation_steps": 2},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_and_boats(tmp_path_factory.mktemp("made"))


def trained(made: Path, output: Path, threads: int, **settings: Any) -> TrainResult:
    """Train where PyTorch has this number of threads."""
    torch.set_num_threads(threads)
    try:
        return run(train_config(made, output, SETTINGS | settings))
    finally:
        torch.set_num_threads(1)


@pytest.fixture(scope="module")
def dealt(made: Path) -> TrainResult:
    return trained(made, made / "dealt", threads=2)


def dealt_pages(result: TrainResult) -> int | None:
    assert result.training.batch
    return result.training.batch.dealt_pages


def test_losses_and_weights_are_those_of_an_undealt_training(made: Path, dealt: TrainResult, tmp_path: Path) -> None:
    undealt = trained(made, tmp_path / "undealt", threads=1)
    assert (dealt_pages(dealt), dealt_pages(undealt)) == (3, None)
    for name in ("samples_per_step", "tokens_per_step", "truncated_samples", "flops_per_step"):
        assert getattr(dealt.training, name) == pytest.approx(getattr(undealt.training, name)), name
    assert dealt.training.padded_tokens_per_step[0] < undealt.training.padded_tokens_per_step[0]
    assert dealt.training.losses == pytest.approx(undealt.training.losses, rel=1e-5)
    assert dealt.training.gradient_norms == pytest.approx(undealt.training.gradient_norms, rel=1e-4)
    weights, expected = load_file(dealt.folder / ADAPTER), load_file(undealt.folder / ADAPTER)
    assert weights.keys() == expected.keys()
    difference = sum(float((weights[name] - expected[name]).square().sum()) for name in weights) ** 0.5
    assert difference < 1e-3 * sum(float(weight.square().sum()) for weight in expected.values()) ** 0.5


@pytest.mark.parametrize("workers", [1, 3])
def test_the_result_does_not_depend_on_the_number_of_threads(
    workers: int, made: Path, dealt: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "DealingThreads", lambda _: DealingThreads(workers))
    other = trained(made, tmp_path / "other", threads=2)
    assert other.training.losses == dealt.training.losses
    assert other.training.gradient_norms == dealt.training.gradient_norms
    assert sha256_file(other.folder / ADAPTER) == sha256_file(dealt.folder / ADAPTER)


def test_each_worker_computes_with_one_thread_and_none_is_left(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[bool, int]] = set()
    compute_loss = MicroBatchTrainer.compute_loss

    def observed(trainer: Any, *places: Any, **options: Any) -> Any:
        assert torch.is_grad_enabled()
        seen.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return compute_loss(trainer, *places, **options)

    monkeypatch.setattr(MicroBatchTrainer, "compute_loss", observed)
    torch.set_num_threads(3)
    try:
        run(train_config(made, tmp_path / "out", SETTINGS | {"max_steps": 1}))
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3, "of threads that start afterwards"
    finally:
        torch.set_num_threads(1)
    assert seen == {(False, 1)}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dealt-page")]


def test_an_error_in_a_worker_ends_the_training_with_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(trainer: Any, model: Any, inputs: dict[str, Any], *places: Any, **options: Any) -> Any:
        raise ArithmeticError("of a worker")

    monkeypatch.setattr(MicroBatchTrainer, "compute_loss", failing)
    with pytest.raises(ArithmeticError, match="of a worker"):
        trained(made, tmp_path / "out", threads=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dealt-page")]
    assert not (tmp_path / "out").exists()


def test_random_numbers_that_parts_drew_are_given_back() -> None:
    before = torch.get_rng_state()
    with closing(DealingThreads(2)) as threads:
        assert threads.summed(lambda _: (torch.rand(()), [torch.rand(())]), [{}] * 4) is None
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_random_numbers_are_not_drawn_by_several_threads(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = transformers.PaddleOCRVLForConditionalGeneration.forward

    def noisy(model: Any, *places: Any, **options: Any) -> Any:
        output = forward(model, *places, **options)
        output.loss = output.loss * (1 + torch.rand(()))
        return output

    vars(noisy)["__signature__"] = inspect.signature(forward)  # the Trainer reads from it what the model accepts
    monkeypatch.setattr(transformers.PaddleOCRVLForConditionalGeneration, "forward", noisy)
    first, second = (trained(made, tmp_path / turn, threads=2, max_steps=1) for turn in ("first", "second"))
    assert caplog.text.count("no longer dealt out") == 2
    assert first.training.losses == second.training.losses


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"lora_dropout": 0.1}, "draws random numbers"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing is set"),
        (
            {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 1},
            "6 pages in a batch are too few for 2 threads",
        ),
        ({"dtype": "bfloat16"}, "autocast's copies"),
    ],
)
def test_what_does_not_allow_it_is_said(
    settings: dict[str, Any], reason: str, made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert dealt_pages(trained(made, tmp_path / "out", threads=2, max_steps=1, **settings)) is None
    assert reason in caplog.text


@pytest.mark.slow
def test_models_whose_rows_depend_on_each_other_are_not_dealt(made: Path, tmp_path: Path) -> None:
    model: Any = StandardBackend().load(train_config(made, tmp_path, SETTINGS)).model
    assert model_obstacle(model) is None
    text = model.config.get_text_config()
    for name, value, reason in (
        ("output_router_logits", True, "balanced over the batch"),
        ("attention_dropout", 0.1, "attention_dropout"),
        ("rope_parameters", {"rope_type": "dynamic"}, "rope dynamic"),
    ):
        before = getattr(text, name, None)
        setattr(text, name, value)
        assert reason in str(model_obstacle(model))
        setattr(text, name, before)
    model.normalisation = torch.nn.BatchNorm2d(3)
    assert model_obstacle(model) == "normalisation normalises over the batch"


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_family_has_the_gradients_of_the_whole_batch(family: str, made: Path, tmp_path: Path) -> None:
    TINY_FAMILIES[family](tmp_path / "base")
    settings = {"base_model": str(tmp_path / "base"), "max_length": 8192, "finetune_vision_layers": True}
    trainable = StandardBackend().load(train_config(made, tmp_path / "out", SETTINGS | settings))
    model: Any = trainable.model.train()
    if model_obstacle(model):
        pytest.skip(str(model_obstacle(model)))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for name, weight in model.named_parameters():
        if ".lora_B." in name:  # zero at first: no gradient would reach the other half
            torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(0))
    dataset = ShardDataset(made / "dataset", "train")
    collator = PageCollator(trainable.processor, trainable.family, 8192, rope_positions_of(model), longest_first=True)
    pages = [dataset[number] for number in range(8)]
    whole = collator(pages)
    collator.micro_batch = 3
    tokens = int((whole["labels"][:, 1:] != -100).sum())

    def computed(part: dict[str, Any]) -> Any:
        loss = model(**part, num_items_in_batch=tokens).loss
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    loss, expected = computed(whole)
    threads = DealingThreads(2)
    found = threads.summed(computed, parts_of(collator(pages)))
    threads.close()
    assert found is not None
    assert float(found[0]) == pytest.approx(float(loss), rel=1e-5)
    for one, other in zip(found[1], expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert float((one - other).norm()) <= 1e-4 * float(other.norm()) + 1e-6
