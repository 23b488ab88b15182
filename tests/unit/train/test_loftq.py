"""On a CPU: 4-bit weights, an adapter that starts as their quantisation error (LoftQ), and an 8-bit optimizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from components.prepare.config import PrepareConfig
from components.prepare.step import run as prepare
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.errors import UserError
from components.shared.models.adapter_loading import load_fine_tuned
from components.shared.models.base_models import TINY_BASE, TINY_BASE_FOLDER
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.reading.image_text_inputs import IGNORED_LABEL
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from components.train.backends.standard import StandardBackend
from components.train.batches.collator import PageCollator
from components.train.config import TrainConfig
from components.train.probes.generation_speed import put_adapter
from components.train.probes.probe import ProbeConfig
from components.train.probes.probe import run as probe
from components.train.step import TrainResult, run
from tests.fixtures.training_fixture import base_and_dataset, boats, one_thread_and_no_tracking, train_config
from tests.fixtures.training_interruption import terminated_after_checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about 4 bits on a CPU; tests/gpu has a GPU's")

SETTINGS = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "base_model": TINY_BASE}
LOFTQ = {"load_in_4bit": True, "init_lora_weights": "loftq"}
# Measured on a CPU with one thread, bitsandbytes 0.50.2, torch 2.13.0 and transformers 5.17.0.
PINNED_LOSSES = {
    "4 bits": [5.9623, 7.2151, 3.1660, 2.0646],
    "loftq": [5.9717, 7.0462, 3.1552, 2.0826],
    "loftq, 4 times": [6.0137, 6.9703, 2.8365, 1.7478],
}
CPU: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu")}


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_and_dataset(tmp_path_factory.mktemp("made"), boats(24, 4), pages=16, lines_per_page=(2, 4))


def config_of(made: Path, output: Path, **changes: Any) -> TrainConfig:
    return train_config(made, output, {**SETTINGS, **changes})


def all_pages(made: Path, split: str) -> dict[str, Any]:
    pages = ShardDataset(made / "dataset", split)
    collator = PageCollator(load_processor(TINY_BASE), family_of("paddleocr_vl"), 4096)
    return collator([pages[index] for index in range(len(pages))])


@pytest.fixture(scope="module")
def trained(made: Path) -> dict[str, TrainResult]:
    """Trainings from 4-bit weights, without and with LoftQ."""
    evaluation = {"eval_steps": 2, "eval_pages": 0}
    settings: dict[str, dict[str, Any]] = {
        "4 bits": {"load_in_4bit": True},
        "loftq": LOFTQ | evaluation,
        "loftq, 4 times": LOFTQ | evaluation | {"loftq_iter": 4},
    }
    return {name: run(config_of(made, made / name, **changes)) for name, changes in settings.items()}


def test_the_losses_are_the_pinned_ones(trained: dict[str, TrainResult]) -> None:
    for name, losses in PINNED_LOSSES.items():
        assert trained[name].training.losses == pytest.approx(losses, rel=1e-2), name


@pytest.mark.slow
def test_an_evaluation_changes_no_four_bit_weights(made: Path, trained: dict[str, TrainResult], tmp_path: Path) -> None:
    evaluated = run(config_of(made, tmp_path / "out", load_in_4bit=True, eval_steps=1, eval_pages=1))
    assert evaluated.training.losses == trained["4 bits"].training.losses


@pytest.mark.slow
def test_loftq_starts_closer_to_the_whole_weights(tmp_path: Path) -> None:
    """Compares logits: the loss of a few pages that the base reads well does not show such a small change."""
    prepare(PrepareConfig(output_dir=tmp_path / "dataset", max_documents=6, max_train_pages=4, workers=1))

    def answers(**changes: Any) -> torch.Tensor:
        loaded = StandardBackend().load(train_config(tmp_path, tmp_path / "out", SETTINGS | changes))
        batch = all_pages(tmp_path, "train")
        with torch.no_grad():
            return loaded.model.eval()(**batch).logits[batch["labels"] != IGNORED_LABEL]

    whole, packed = answers(), answers(load_in_4bit=True)
    off = [float((logits - whole).norm()) for logits in (packed, answers(**LOFTQ), answers(**LOFTQ, r=64))]
    # Measured on 8 pages: 8.7 % of the logits' norm, 7.4 % with rank 16, 4.9 % with rank 64.
    assert off[1] < 0.95 * off[0] and off[2] < 0.7 * off[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True, "loftq_iter": 4},
        *(pytest.param(one, marks=pytest.mark.slow) for one in ({}, {"use_rslora": True}, {"r": 200})),
    ],
)
def test_in_every_module_the_adapter_makes_up_for_quantisation(made: Path, changes: dict[str, Any]) -> None:
    config = config_of(made, made / "unused", **LOFTQ | {"r": 8} | changes)
    loaded = StandardBackend().load(config)
    whole, errors = load_model(TINY_BASE, **CPU), []
    for name, layer in loaded.model.named_modules():
        if isinstance(layer, LoraLayer):
            base: Any = layer.get_base_layer()
            weight = whole.get_submodule(name.removeprefix("base_model.model.")).weight.detach()
            missing = weight - functional.dequantize_4bit(base.weight.data, base.weight.quant_state)
            left = missing - layer.get_delta_weight("default").detach()
            best = torch.linalg.svdvals(missing)[config.r :].norm().item()  # the Eckart-Young theorem
            assert left.norm().item() == pytest.approx(best, rel=1e-3, abs=1e-4)
            errors.append((missing.norm().item(), left.norm().item(), weight.norm().item()))
    assert len(errors) == 35, "q, k, v, o and three projections in five layers"
    assert all(left < 0.97 * missing for missing, left, _ in errors)
    facts = loaded.details["loftq"]
    norms = torch.tensor(errors).norm(dim=0)
    assert facts["modules"] == 35
    assert facts["error_with_adapter"] == pytest.approx(float(norms[1] / norms[2]), rel=1e-3, abs=1e-6)
    if config.loftq_iter == 1:  # more iterations have changed the weights
        assert facts["error"] == pytest.approx(float(norms[0] / norms[2]), rel=1e-3)


@pytest.mark.slow
def test_an_optimizer_in_eight_bits_steps_alike(made: Path, trained: dict[str, TrainResult], tmp_path: Path) -> None:
    changes = {"load_in_4bit": True, "r": 32}
    eight, full = (
        run(config_of(made, tmp_path / optim, optim=optim, **changes)) for optim in ("adamw_8bit", "adamw_torch")
    )
    assert eight.training.losses == pytest.approx(full.training.losses, rel=0.02)
    assert eight.training.losses != full.training.losses


def test_fitting_more_often_leaves_less(trained: dict[str, TrainResult]) -> None:
    once, often = (trained[name].training.details["loftq"] for name in ("loftq", "loftq, 4 times"))
    assert often["error"] == once["error"]
    assert often["error_with_adapter"] < 0.95 * once["error_with_adapter"] < 0.9 * once["error"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}])
def test_an_adapter_that_learned_nothing_does_nothing_to_the_whole_base(
    made: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(config_of(made, tmp_path / "out", max_steps=1, **LOFTQ, **changes))  # the first step's learning rate is 0
    batch = all_pages(made, "eval")
    with torch.no_grad():
        expected = load_model(TINY_BASE, **CPU).eval()(**batch).logits
        found = load_fine_tuned(TINY_BASE, tmp_path / "out", **CPU)(**batch).logits
    assert torch.allclose(found, expected, atol=1e-3)


def test_the_whole_base_with_the_adapter_is_what_was_trained(made: Path, trained: dict[str, TrainResult]) -> None:
    batch = all_pages(made, "eval")
    with torch.no_grad():
        base = load_model(TINY_BASE, **CPU).eval()(**batch).loss.item()
        found = load_fine_tuned(TINY_BASE, trained["loftq"].folder, **CPU)(**batch).loss.item()
    reached = trained["loftq"].training.eval_losses[-1]
    assert base - reached > 1, "it learned"
    assert found == pytest.approx(reached, abs=0.05 * (base - reached))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loftq", "loftq, 4 times"])
def test_the_benchmark_reads_with_what_was_trained(
    made: Path, trained: dict[str, TrainResult], tmp_path: Path, name: str
) -> None:
    training = trained[name].training.model_dump()
    options: dict[str, Any] = {"cer_pages": 1, "max_new_tokens": 8, "generation_tokens": 0}
    result = probe(ProbeConfig(train=training["config"], result_file=tmp_path / "probe.json", **options))
    assert result["reading"]["status"] == "ok", result["reading"]
    loaded = StandardBackend().load(TrainConfig.model_validate(training["config"]))
    put_adapter(loaded, trained[name].folder)
    with torch.no_grad():
        found = loaded.model.eval()(**all_pages(made, "eval")).loss.item()
    assert found == pytest.approx(training["eval_losses"][-1], rel=1e-3)


@pytest.mark.slow
def test_a_resumed_training_ends_as_if_it_had_not_been_stopped(made: Path, tmp_path: Path) -> None:
    # bitsandbytes keeps optimizer states of fewer than 4,096 values in 32 bits; with rank 32 each has 6,144 or more.
    changes = {"max_steps": 12, "per_device_train_batch_size": 2, "optim": "adamw_8bit", "r": 32}
    changes |= LOFTQ | {"loftq_iter": 2}
    uninterrupted = run(config_of(made, tmp_path / "whole", **changes))
    config = config_of(made, tmp_path / "out", checkpoint_dir=tmp_path / "checkpoints", save_steps=2, **changes)
    with terminated_after_checkpoint(tmp_path / "checkpoints", 2):
        run(config)
    kept = sorted((tmp_path / "checkpoints").glob("*/checkpoint-*/optimizer.pt"))[-1]
    states = [state["__bnb_optimizer_quant_state__"] for state in torch.load(kept)["state"].values()]
    assert all(state[name].dtype == torch.uint8 for state in states for name in ("state1", "state2"))
    resumed = run(config)
    assert resumed.training.resumed_after_steps != []
    assert resumed.training.losses == uninterrupted.training.losses
    files = [result.folder / "adapter_model.safetensors" for result in (resumed, uninterrupted)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init_lora_weights": "loftq"}, "needs load_in_4bit"),
        ({"loftq_iter": 2}, "loftq_iter needs init_lora_weights: loftq"),
        (LOFTQ | {"adapt_experts": True}, "adapted experts"),
        (LOFTQ | {"loftq_iter": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(made: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config_of(made, made / "unused", **changes)


def test_nothing_quantised_is_nothing_to_make_up_for(made: Path, tmp_path: Path) -> None:
    config = config_of(made, tmp_path / "out", **LOFTQ, target_modules=["projector.linear_1"])
    with pytest.raises(UserError, match="none of the adapted modules is quantised"):
        run(config)
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_quantised_itself_is_refused(made: Path, tmp_path: Path) -> None:
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    packed = AutoModelForImageTextToText.from_pretrained(TINY_BASE_FOLDER, quantization_config=settings)
    packed.save_pretrained(tmp_path / "packed")
    load_processor(TINY_BASE).save_pretrained(tmp_path / "packed")
    with pytest.raises(UserError, match="quantised already"):
        run(config_of(made, tmp_path / "out", base_model=str(tmp_path / "packed"), **LOFTQ))


def test_rows_that_are_no_whole_blocks_are_refused(made: Path, tmp_path: Path) -> None:
    save_tiny_deepseek_ocr2(tmp_path / "deepseek")
    config = config_of(made, tmp_path / "out", base_model=str(tmp_path / "deepseek"), load_in_4bit=True)
    with pytest.raises(UserError, match=r"down_proj has 32 inputs, .* multiple of 64"):
        run(config)
