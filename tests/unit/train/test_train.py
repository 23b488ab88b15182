"""The train step on an untrained tiny model: pinned losses, trained weights, output files, and invalid settings."""

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from components.shared.artifacts.dataset_manifest import read_manifest
from components.shared.datasets.shard_reader import ShardDataset
from components.shared.digests import sha256_folder
from components.shared.errors import UserError
from components.shared.models.base_identity import base_identity
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_model, load_processor
from components.shared.programs.step_command import step_main
from components.shared.tiny_base_recipe.tiny_models import save_tiny_deepseek_ocr2
from components.train.backends.choice import choose_backend
from components.train.backends.compile_cache import use_compile_cache
from components.train.backends.experts import expert_weights, fused_experts
from components.train.backends.quantization import quantize_experts, weight_formats
from components.train.backends.standard import StandardBackend
from components.train.batches.collator import PageCollator
from components.train.config import TrainConfig
from components.train.presets import preset_table, presets
from components.train.step import TrainResult, run
from components.train.vision.frozen_vision import run_frozen_parts_without_gradients
from tests.fixtures.training_fixture import base_and_dataset, one_thread_and_no_tracking, train_config

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a CUDA device")

SETTINGS = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "backend": "standard"}
# Measured on a CPU with one thread, torch 2.13.0 and transformers 5.17.0. The first loss is that of an untrained model,
# close to ln 320 = 5.77. The first step's learning rate is 0 (warm-up), so the second loss differs by its pages only.
PINNED_LOSSES = [5.8105, 5.7648, 5.2683, 5.0317]


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_tracking() -> Iterator[None]:
    with one_thread_and_no_tracking():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a blank base model and a dataset of 16 training pages."""
    texts = [f"Line {number} of the log: {number * 37 % 101} boats, {number * 7 % 9} sails." for number in range(24)]
    return base_and_dataset(tmp_path_factory.mktemp("made"), texts, pages=16, lines_per_page=(2, 4))


def config_of(made: Path, output: Path, **changes: Any) -> TrainConfig:
    return train_config(made, output, SETTINGS | changes)


@pytest.fixture(scope="module")
def lora(made: Path) -> TrainResult:
    return run(config_of(made, made / "lora"))


def adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_the_losses_are_the_pinned_ones(lora: TrainResult) -> None:
    assert lora.training.losses == pytest.approx(PINNED_LOSSES, rel=1e-2)


def test_the_same_seed_gives_the_same_losses_and_another_does_not(
    made: Path, lora: TrainResult, tmp_path: Path
) -> None:
    again = run(config_of(made, tmp_path / "again"))
    assert again.training.losses == lora.training.losses
    weights, before = adapter_weights(again.folder), adapter_weights(lora.folder)
    assert weights.keys() == before.keys() and all(torch.equal(weights[name], before[name]) for name in before)
    other = run(config_of(made, tmp_path / "other", seed=1))
    assert other.training.losses != lora.training.losses


@pytest.mark.parametrize(
    "change", [{"gradient_checkpointing": True}, {"dataloader_num_workers": 2}, {"pad_to_multiple_of": 64}]
)
def test_how_it_is_computed_does_not_change_the_losses(
    made: Path, lora: TrainResult, tmp_path: Path, change: dict[str, Any]
) -> None:
    training = run(config_of(made, tmp_path / "out", **change)).training.model_dump()
    assert training["losses"] == pytest.approx(lora.training.losses, rel=1e-4)
    assert training["tokens_per_step"] == lora.training.tokens_per_step
    granule = change.get("pad_to_multiple_of", 1)
    assert all(padded % (granule * 4) == 0 for padded in training["padded_tokens_per_step"])


def test_accumulated_batches_are_one_step(made: Path, lora: TrainResult, tmp_path: Path) -> None:
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    result = run(config_of(made, tmp_path / "out", **halves))
    assert result.training.samples_per_step == lora.training.samples_per_step == [4, 4, 4, 4]
    assert result.training.losses == pytest.approx(lora.training.losses, rel=1e-3)


def test_a_loss_that_is_each_batchs_own_mean_is_said(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one_step = {"max_steps": 1, "per_device_train_batch_size": 2}
    run(config_of(made, tmp_path / "summed", **one_step, gradient_accumulation_steps=2))
    assert "mean over the tokens of each batch" not in caplog.text
    monkeypatch.setattr(transformers.PaddleOCRVLForConditionalGeneration, "accepts_loss_kwargs", False, raising=False)
    run(config_of(made, tmp_path / "one", **one_step))
    assert "mean over the tokens of each batch" not in caplog.text
    run(config_of(made, tmp_path / "two", **one_step, gradient_accumulation_steps=2))
    assert "mean over the tokens of each batch for itself, and a step has 2 batches" in caplog.text


def test_a_second_gpu_that_is_in_sight_changes_nothing(
    made: Path, lora: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", property(lambda _: 2))  # it counts visible GPUs
    beside_another = run(config_of(made, tmp_path / "beside-another")).training.model_dump()
    assert beside_another["samples_per_step"] == lora.training.samples_per_step == [4] * 4
    assert beside_another["losses"] == lora.training.losses


def test_the_adapters_settings_do_not_have_the_order_of_a_set(lora: TrainResult) -> None:
    """PEFT's own order depends on PYTHONHASHSEED, and with it the adapter's digest."""
    targets = json.loads((lora.folder / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) > 6 and targets == sorted(targets)


def test_it_learns(made: Path, tmp_path: Path) -> None:
    result = run(config_of(made, tmp_path / "out", peft="none", max_steps=30, learning_rate=3e-3))
    losses = result.training.losses
    assert losses[-1] < 0.7 * losses[0]


def test_only_the_adapter_is_trainable(made: Path, lora: TrainResult) -> None:
    model = StandardBackend().load(config_of(made, made / "unused")).model
    trainable = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable and all(".lora_" in name and ".language_model." in name for name in trainable)
    assert lora.training.trainable_parameters == sum(trainable.values())
    assert lora.training.trainable_parameters < lora.training.parameters / 5


def test_lora_writes_the_adapter_and_leaves_the_base_alone(made: Path, tmp_path: Path) -> None:
    before = sha256_folder(made / "base")
    result = run(config_of(made, tmp_path / "out"))
    assert sha256_folder(made / "base") == before
    weights = adapter_weights(result.folder)
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in weights)
    assert all(weight.abs().max() > 0 for weight in weights.values()), "lora_B starts at zero and has to move"
    assert not (result.folder / "model.safetensors").exists()
    assert not (result.folder / "README.md").exists(), "PEFT's unfilled card"
    assert load_processor(str(result.folder)).tokenizer.eos_token == "<|endoftext|>"


def test_full_fine_tuning_writes_a_model_that_loads(made: Path, tmp_path: Path) -> None:
    result = run(config_of(made, tmp_path / "out", peft="none"))
    assert not (result.folder / "adapter_config.json").exists()
    assert result.training.trainable_parameters == result.training.parameters
    device = torch.device("cpu")
    base = dict(load_model(str(made / "base"), dtype=torch.float32, device=device).named_parameters())
    tuned = dict(load_model(str(result.folder), dtype=torch.float32, device=device).named_parameters())
    assert tuned.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert any("visual" in name for name in changed) and any("language_model" in name for name in changed)
    assert json.loads((result.folder / "config.json").read_text())["use_cache"] is not False


def test_vision_layers_are_adapted_where_asked(made: Path, lora: TrainResult, tmp_path: Path) -> None:
    result = run(config_of(made, tmp_path / "out", finetune_vision_layers=True))
    weights = adapter_weights(result.folder)
    added = {name for name in weights if name not in adapter_weights(lora.folder)}
    assert adapter_weights(lora.folder).keys() < weights.keys()
    assert all("visual" in name or "projector" in name for name in added)
    assert any("projector" in name for name in added)
    assert all(weights[name].abs().max() > 0 for name in added)


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["language_model.layers.0.self_attn.q_proj"], 1),
        (["down_proj"], 5),
        (["self_attn.q_proj"], 5),  # the language model's five layers, not the vision encoder's three of the same name
        (["self_attn.q_proj", "visual.vision_model.encoder.layers.0.self_attn.q_proj"], 6),
    ],
)
def test_target_modules_are_found_by_the_end_of_their_name(
    made: Path, tmp_path: Path, names: list[str], count: int
) -> None:
    result = run(config_of(made, tmp_path / "out", target_modules=names, r=2, max_steps=1))
    weights = adapter_weights(result.folder)
    assert len(weights) == 2 * count
    assert all(any(f"{name}.lora_" in key for name in names) for key in weights)
    assert all(weight.shape[0 if "lora_A" in key else 1] == 2 for key, weight in weights.items())


def test_adapted_experts_may_be_among_the_target_modules(deepseek: Path, made: Path) -> None:
    names = {"target_modules": ["q_proj", "gate_up_proj"], "base_model": str(deepseek)}
    adapted = StandardBackend().load(config_of(made, made / "unused", adapt_experts=True, **names)).model
    trainable = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert any(".experts." in name for name in trainable) and any(".q_proj." in name for name in trainable)
    with pytest.raises(UserError, match="is named gate_up_proj"):
        StandardBackend().load(config_of(made, made / "unused", **names))


def test_training_json_says_what_was_done(made: Path, lora: TrainResult) -> None:
    training = json.loads((lora.folder / "training.json").read_text())
    assert training == lora.training.model_dump()
    assert (training["backend"], training["backend_reason"]) == ("standard", "asked for by the config")
    assert training["dataset_digest"] == read_manifest(made / "dataset").digest
    assert training["config"] == config_of(made, made / "lora").model_dump(mode="json")
    assert training["base"] == base_identity(str(made / "base"), str(made / "base"), None).as_json()
    assert (training["seed"], training["steps"], training["truncated_samples"]) == (0, 4, 0)
    assert training["loss_steps"] == [1, 2, 3, 4]
    for name in ("losses", "learning_rates", "gradient_norms", "step_seconds", "tokens_per_step"):
        assert len(training[name]) == 4 and all(math.isfinite(value) and value >= 0 for value in training[name])
    assert max(training["learning_rates"]) <= 1e-2
    assert training["peak_memory_bytes"]["resident"] > 100e6
    assert {"torch", "transformers", "peft", "python", "deepsynth-pipelines"} <= training["versions"].keys()


def test_labels_cut_by_max_length_are_counted(made: Path, lora: TrainResult, tmp_path: Path) -> None:
    # Pictures take at least 2 x 8 cells of 28 pixels, prompt and marks five more tokens: 60 cuts only some answers.
    result = run(config_of(made, tmp_path / "out", max_length=60))
    assert 0 < result.training.truncated_samples <= 16
    assert sum(result.training.tokens_per_step) < sum(lora.training.tokens_per_step)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_max_length_below_the_picture_is_said(made: Path, tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match="max_length: 16 tokens are used up by a page's picture") as raised:
        run(config_of(made, tmp_path / "out", max_length=16, dataloader_num_workers=workers))
    assert "Traceback" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert not multiprocessing.active_children(), "its data workers have ended"


@pytest.mark.slow
def test_a_training_that_fails_ends_with_its_data_workers(made: Path, tmp_path: Path) -> None:
    settings = config_of(made, tmp_path / "out", max_length=16, dataloader_num_workers=1).model_dump(mode="json")
    (tmp_path / "train.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "components.train", "--config", str(tmp_path / "train.json")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 2 and "max_length: 16 tokens" in answer.stderr


@on_cpu
def test_auto_takes_the_standard_backend_on_a_cpu_and_says_why(made: Path) -> None:
    backend, reason = choose_backend(config_of(made, made / "unused", backend="auto"))
    assert (backend.name, reason) == ("standard", "no CUDA device on this machine")


def test_a_preset_lies_below_the_given_values(made: Path) -> None:
    config = config_of(made, made / "unused", preset="high_capacity", r=8)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 128, 0.1)
    assert TrainConfig.model_validate(config.model_dump()) == config, "a resolved config is read back as it is"
    given = config_of(made, made / "unused", preset="qlora_4bit", load_in_4bit=False)
    assert (given.load_in_4bit, given.gradient_checkpointing) == (False, True)


def test_the_presets_are_settings_of_the_train_step(made: Path) -> None:
    ranks = {}
    for name, preset in presets().items():
        config = TrainConfig(dataset_dir=made, output_dir=made, preset=name)
        assert {key: getattr(config, key) for key in preset.settings} == preset.settings
        ranks[name] = (config.r, config.lora_alpha, config.lora_dropout)
    assert ranks["minimal"] == (4, 8, 0)
    assert ranks["standard"] == (16, 32, 0)
    assert ranks["high_capacity"] == (64, 128, 0.1)
    assert [row["preset"] for row in preset_table()] == list(presets())
    assert "load_in_4bit true" in next(row["settings"] for row in preset_table() if row["preset"] == "qlora_4bit")
    help_text = str(TrainConfig.model_fields["preset"].description)
    assert all(name in help_text for name in presets())


def test_the_adapter_starts_from_the_seed_alone(made: Path) -> None:
    def start(**changes: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(int(torch.randint(1000, (1,))))
        model = StandardBackend().load(config_of(made, made / "unused", **changes)).model
        return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}

    first, again, other = start(), start(), start(seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if ".lora_A." in name)
    for name, weight in first.items():
        if ".lora_B." in name:
            assert not weight.any()
        else:
            assert weight.abs().max() <= weight.shape[1] ** -0.5
            assert weight.std() == pytest.approx((3 * weight.shape[1]) ** -0.5, rel=0.1)


@pytest.fixture(scope="module")
def deepseek(made: Path) -> Path:
    """A tiny model with a mixture of experts whose weights affect the loss, unlike those of a fresh model."""
    save_tiny_deepseek_ocr2(made / "deepseek")
    return made / "deepseek"


def loss_and_gradients(model: Any, made: Path, deepseek: Path) -> tuple[float, list[torch.Tensor]]:
    dataset = ShardDataset(made / "dataset", "train")
    collator = PageCollator(load_processor(str(deepseek)), family_of("deepseek_ocr2"), 4096)
    loss = model(**collator([dataset[0], dataset[1]])).loss
    loss.backward()
    return loss.item(), [weight.grad for weight in model.parameters() if weight.grad is not None]


def frozen_but_for_queries(deepseek: Path) -> Any:
    model: Any = load_model(str(deepseek), dtype=torch.float32, device=torch.device("cpu"))
    torch.manual_seed(0)
    for _, module in fused_experts(model):
        for name in expert_weights(module):
            getattr(module, name).data.normal_(0, 0.1)
    for name, weight in model.named_parameters():
        weight.requires_grad_("language_model" in name and "q_proj" in name)
    return model.train()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_experts_train_like_their_dequantised_weights(
    made: Path, deepseek: Path, bits: Any, checkpointing: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    packed, plain = frozen_but_for_queries(deepseek), frozen_but_for_queries(deepseek)
    modules = fused_experts(plain)
    assert quantize_experts(packed, bits, checkpointing=checkpointing) == 4 * (2 * 32 * 64 + 64 * 32)
    for place, module in modules:
        for name in expert_weights(module):
            weight, original = getattr(packed.get_submodule(place), name), getattr(module, name)
            error = (weight - original).norm() / original.norm()
            # Normal values: nf4 in blocks of 64 is off by 9.2 %, 8 bits in blocks of 256 by 1.1 % (measured).
            assert error < {4: 0.1, 8: 0.015}[bits]
            original.data.copy_(weight)
    if checkpointing:
        packed.gradient_checkpointing_enable()
    loss, gradients = loss_and_gradients(packed, made, deepseek)
    expected_loss, expected_gradients = loss_and_gradients(plain, made, deepseek)
    assert loss == expected_loss
    assert gradients and all(map(torch.allclose, gradients, expected_gradients))
    formats = weight_formats(packed)
    label = {4: "nf4", 8: "8-bit blockwise"}[bits]
    assert formats[label]["values"] == 24576 and formats[label]["bytes"] == 24576 * bits // 8
    frozen = sum(weight.numel() for weight in plain.parameters() if not weight.requires_grad)
    assert sum(entry["values"] for entry in formats.values()) == frozen


def test_experts_are_adapted_where_asked(made: Path, deepseek: Path, tmp_path: Path) -> None:
    result = run(config_of(made, tmp_path / "out", base_model=str(deepseek), max_steps=2, adapt_experts=True))
    experts = {name: weight for name, weight in adapter_weights(result.folder).items() if ".mlp.experts." in name}
    assert len(experts) == 2 * 2, "A and B for gate and up together, and for down"
    assert all(weight.abs().max() > 0 for weight in experts.values())


def test_frozen_parts_cost_no_gradients_and_change_none(made: Path, deepseek: Path) -> None:
    def passes_back_through_vision(model: Any) -> int:
        count = 0

        def hook(*_: Any) -> None:
            nonlocal count
            count += 1

        for layer in model.model.vision_tower.sam_encoder.layers:
            layer.register_full_backward_hook(hook)
        loss, gradients = loss_and_gradients(model, made, deepseek)
        seen.append((loss, gradients))
        return count

    seen: list[tuple[float, list[torch.Tensor]]] = []
    usual, spared = frozen_but_for_queries(deepseek), frozen_but_for_queries(deepseek)
    assert run_frozen_parts_without_gradients(spared) == ["vision_tower", "multi_modal_projector"]
    for model in (usual, spared):
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    assert passes_back_through_vision(usual) > 0
    assert passes_back_through_vision(spared) == 0
    (usual_loss, usual_gradients), (spared_loss, spared_gradients) = seen
    assert spared_loss == usual_loss
    assert all(map(torch.allclose, spared_gradients, usual_gradients))


def test_a_trained_part_keeps_its_gradients_through_the_parts_after_it(made: Path, deepseek: Path) -> None:
    model = frozen_but_for_queries(deepseek)
    trained = next(model.model.vision_tower.parameters()).requires_grad_(True)
    assert run_frozen_parts_without_gradients(model) == []
    loss_and_gradients(model, made, deepseek)
    assert trained.grad is not None and trained.grad.abs().sum() > 0
    with_projector = frozen_but_for_queries(deepseek)
    next(with_projector.model.multi_modal_projector.parameters()).requires_grad_(True)
    assert run_frozen_parts_without_gradients(with_projector) == ["vision_tower"]


def test_a_second_training_of_a_model_wraps_nothing_twice(deepseek: Path) -> None:
    model = frozen_but_for_queries(deepseek)
    first = run_frozen_parts_without_gradients(model)
    forwards = [getattr(model.model, name).forward for name in first]
    assert run_frozen_parts_without_gradients(model) == first
    assert [getattr(model.model, name).forward for name in first] == forwards


def test_compiled_kernels_go_where_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNSLOTH_COMPILE_LOCATION", "UNSLOTH_MEGA_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with pytest.MonkeyPatch.context() as scratch:
        scratch.setattr("os.environ", dict(os.environ))
        assert use_compile_cache(tmp_path / "volume") == tmp_path / "volume"
        assert os.environ["UNSLOTH_COMPILE_LOCATION"] == str(tmp_path / "volume" / "unsloth_compiled_cache")
        assert os.environ["TRITON_CACHE_DIR"] == "/mine", "what the user set wins"
        assert use_compile_cache(None) == tmp_path / "home" / "deepsynth" / "compiled"


def bad_settings(kind: str, made: Path, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return invalid settings, and the words that the error message must contain."""
    if kind in ("flipped byte", "cut shard", "no shard", "changed manifest"):
        shutil.copytree(made / "dataset", folder / "dataset")
        shard = folder / "dataset" / "train-000000.tar"
        content = shard.read_bytes()
        if kind == "flipped byte":
            shard.write_bytes(content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])
        elif kind == "cut shard":
            shard.write_bytes(content[: len(content) // 2])
        elif kind == "no shard":
            shard.unlink()
        else:
            manifest = folder / "dataset" / "manifest.json"
            manifest.write_text(manifest.read_text().replace('"nsamples": 16', '"nsamples": 15'))
            return {"dataset_dir": folder / "dataset"}, ["manifest.json", "changed"]
        return {"dataset_dir": folder / "dataset"}, ["train-000000.tar", "prepare the data again"]
    (folder / "empty").mkdir()
    (folder / "in-use").mkdir()
    (folder / "in-use" / "file").write_text("mine")
    settings: dict[str, tuple[dict[str, Any], list[str]]] = {
        "no manifest": ({"dataset_dir": folder / "empty"}, ["manifest.json", "prepare"]),
        "no dataset": ({"dataset_dir": folder / "nowhere"}, ["nowhere", "prepare"]),
        "no base": ({"base_model": str(folder / "none")}, ["base_model", "none", "no such model folder"]),
        "empty base": ({"base_model": str(folder / "empty")}, ["base_model", "empty"]),
        "unknown target": ({"target_modules": ["q_projection"]}, ["target_modules", "q_projection", "named_modules"]),
        "unknown among known": (
            {"target_modules": ["q_proj", "vproj", "embed_tokens"]},
            ["target_modules", "is named vproj or embed_tokens", "named_modules"],
        ),
        "unsloth": ({"backend": "unsloth"}, ["backend", "no CUDA device", "standard or auto"]),
        "8 bits": ({"load_in_8bit": True}, ["load_in_8bit", "CUDA"]),
        "4 and 8 bits": ({"load_in_4bit": True, "load_in_8bit": True}, ["exclude each other"]),
        "no experts": ({"adapt_experts": True}, ["adapt_experts", "no fused expert weights"]),
        "experts with dropout": ({"adapt_experts": True, "lora_dropout": 0.1}, ["lora_dropout: 0"]),
        "preset": ({"preset": "qlora_5bit"}, ["preset", "qlora_5bit", "qlora_4bit"]),
        "4 bits of all": ({"load_in_4bit": True, "peft": "none"}, ["peft: lora"]),
        "unpinned code": ({"base_model": "a/b", "trust_remote_code": True}, ["pin the revision"]),
        "no rank": ({"r": 0}, ["'r'"]),
        "nan": ({"learning_rate": 1e30, "max_steps": 3}, ["learning_rate", "loss became"]),
        "output in use": ({"output_dir": folder / "in-use"}, ["in-use", "not empty"]),
    }
    return settings[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "flipped byte",
        "cut shard",
        "no shard",
        "changed manifest",
        "no manifest",
        "no dataset",
        "no base",
        "empty base",
        "unknown target",
        "unknown among known",
        pytest.param("unsloth", marks=on_cpu),
        pytest.param("8 bits", marks=on_cpu),
        "4 and 8 bits",
        "no experts",
        "experts with dropout",
        "preset",
        "4 bits of all",
        "unpinned code",
        "no rank",
        "nan",
        "output in use",
    ],
)
def test_a_bad_setting_is_one_line_and_leaves_nothing(
    kind: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, named = bad_settings(kind, made, tmp_path)
    places = {"dataset_dir": made / "dataset", "base_model": made / "base", "output_dir": tmp_path / "out"}
    values = {**places, **SETTINGS, **changes}
    (tmp_path / "train.json").write_text(json.dumps(values, default=str))
    before = sorted(tmp_path.rglob("*"))
    assert step_main("train", TrainConfig, run, ["--config", str(tmp_path / "train.json")]) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.endswith(line + "\n") and "Traceback" not in said
    for part in named:
        assert part in line
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_what_is_wrong(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset_dir", str(made / "dataset"), "--base_model", "./nowhere", "--output_dir", "out"]
    assert step_main("train", TrainConfig, run, flags) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: base_model './nowhere': no such model folder")
    assert list(tmp_path.iterdir()) == []
