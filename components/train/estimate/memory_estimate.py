"""Predicts a training's peak memory from its config: one step is traced on the meta device, without weights.

``estimate_memory`` runs these stages in order:

1. Build the model on the meta device, with the backend's number formats and the adapter (``model_on_meta``).
2. Build a full batch of the largest pages (``_batch_on_meta``).
3. Sum the static parts, which stay for the whole training: frozen weights with their quantisation scales, trained
   weights, optimizer states, workspaces and recordings, and the gradient buckets of several GPUs.
4. Trace a step (``_traced``): forward and backward passes of the real modules, with gradient checkpointing, kept
   features and Unsloth's layers and loss where the config uses them. The result is the peak of activations, logits and
   gradients.
5. Compute the memory of the optimizer step: gradients, and with adamw_torch one temporary float32 value per weight.
6. The peak is the static parts plus the larger of 4 and 5. The loading peak is computed apart (``_loading_peak``).

    python -m components.train.estimate.memory_estimate < request.json

reads the config of a train step, the pages and the backend (JSON) and prints the estimate (JSON). The estimate is
compared with measured peaks in docs/benchmarks/training/estimate.md. With ``vision_features_dir`` it assumes that the
features of all pictures in the batch are stored.
"""

import contextlib
import gc
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from components.shared.errors import EXIT_CODE_USER_ERROR, UserError, first_line
from components.shared.models.model_families import family_of
from components.shared.models.model_loading import load_processor
from components.shared.reading.image_text_inputs import training_inputs
from components.train.backends.quantization import PackedWeight, packed_bits, weight_formats
from components.train.batches.rope_positions import rope_positions_of
from components.train.config import TrainConfig
from components.train.estimate.model_on_meta import load_architecture, model_on_meta, packs_experts, scale_bytes
from components.train.estimate.step_trace import GpuOnMeta, MemoryTrace, on_the_gpu
from components.train.estimate.unsloth_layers import compile_layers
from components.train.estimate.unsloth_step import fused_loss, offload_layer_inputs
from components.train.estimate.vision_part import encode_each_shape_once, recording_bytes, serve_kept_features
from components.train.vision.frozen_vision import run_frozen_parts_without_gradients

# cuBLAS's workspace on a Hopper GPU; older GPUs use less.
WORKSPACE_BYTES = 32 * 2**20
# Rows are padded with tokens that are attended to and labelled; 0 in the other tensors does not mark an image token.
_PADDED_WITH_ONES = {"labels", "attention_mask"}


@dataclass(frozen=True)
class Pages:
    """A batch's pages: ``width`` × ``height`` pixels each, in rows of ``tokens`` tokens (image tokens included)."""

    width: int
    height: int
    tokens: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Parameter counts and predicted bytes; ``parts`` are the bytes at the peak and sum to ``peak_bytes``."""

    backend: str
    parameters: int
    trainable_parameters: int
    page_tokens: int
    """tokens of the picture, the prompt and the end of a page"""
    weight_bytes: dict[str, int]
    """bytes by number format, as in training.json; the scales of packed weights are not included"""
    parts: dict[str, int]
    loading_peak_bytes: int
    peak_bytes: int
    """bytes that PyTorch's allocator hands out; fragmentation and the CUDA context come on top"""
    upper_bound: bool
    """the real peak may be lower: without gradient checkpointing and with adapted experts, Unsloth's layers keep less
    than this model of them"""


def estimate_memory(config: TrainConfig, pages: Pages, backend: str) -> MemoryEstimate:
    """Return the estimate for ``config`` on a GPU with ``backend`` (``standard`` or ``unsloth``) and full batches.

    Raises:
        UserError: the model's config or processor cannot be loaded, the pages do not fit into the tokens, or the
            model's step depends on tensor values and cannot be traced.
    """
    architecture = load_architecture(config)
    compute = torch.float32 if config.dtype == "float32" else torch.bfloat16
    model = model_on_meta(architecture, config, backend, compute)
    batch, page_tokens = _batch_on_meta(model, config, pages)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    trained = sum(weight.numel() for weight in trainable)
    static = {
        "weights": _bytes(weight for weight in model.parameters() if not weight.requires_grad)
        + _bytes(model.buffers())
        + (scale_bytes(config, model) if packed_bits(config) else 0),
        "adapter" if config.peft == "lora" else "trained weights": _bytes(trainable),
        "optimizer": trained * (2 if config.optim == "adamw_8bit" else 8),
        "workspace": WORKSPACE_BYTES + recording_bytes(model, batch, WORKSPACE_BYTES),
        # DistributedDataParallel copies the gradients into buckets to reduce them over several GPUs.
        **({"gradient buckets": _bytes(trainable)} if config.num_gpus > 1 else {}),
    }
    total = sum(values for values, _, _ in _plain_and_packed(model))
    traced = _traced(model, batch, config, backend, None if compute == torch.float32 else compute)
    # adamw_torch updates all weights at once (foreach) and needs one temporary float32 value for each.
    stepping = {"gradients": 4 * trained, "activations": 4 * trained if config.optim == "adamw_torch" else 0}
    moving = max(traced, stepping, key=lambda parts: sum(parts.values()))
    parts = {**static, **{name: size for name, size in moving.items() if size}}
    return MemoryEstimate(
        backend=backend,
        parameters=total,
        trainable_parameters=trained,
        page_tokens=page_tokens,
        weight_bytes=_formats(model, config),
        parts=parts,
        loading_peak_bytes=_loading_peak(model, config, backend, static["weights"]),
        peak_bytes=sum(parts.values()),
        upper_bound=backend == "unsloth" and (config.adapt_experts or not config.gradient_checkpointing),
    )


def _batch_on_meta(model: PreTrainedModel | PeftModel, config: TrainConfig, pages: Pages) -> tuple[dict[str, Any], int]:
    """Return a batch like the collator's, its pixels on the meta device, and the tokens that one page needs."""
    processor = load_processor(config.base_model, config.revision, config.trust_remote_code)
    family = family_of(model.config.model_type)
    picture = Image.new("RGB", (pages.width, pages.height), "white")
    one_page = training_inputs(processor, family, [picture], [None], [""])
    # Rows, pictures, patches and grids are all stacked along the first dimension, so repeat one page's tensors.
    count = config.per_device_train_batch_size
    batch = {
        # Move pixels to the meta device before repeating them: those of 512 pages are 40 GB.
        name: (value.to("meta") if value.is_floating_point() else value).repeat(count, *(1 for _ in value.shape[1:]))
        for name, value in one_page.items()
    }
    rows = batch["input_ids"].shape
    shortest = rows[1]
    if shortest > pages.tokens:
        raise UserError(
            f"a page's picture and prompt take {shortest} tokens, and there are {pages.tokens}",
            where="tokens",
            mend="give more of them, or smaller pages",
        )
    padding = (0, pages.tokens - shortest)
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.shape == rows:
            batch[name] = torch.nn.functional.pad(value, padding, value=name in _PADDED_WITH_ONES)
    if (positions := rope_positions_of(model)) is not None:
        positions.add_to(batch)
    return batch, shortest


def _traced(
    model: PreTrainedModel | PeftModel, batch: dict[str, Any], config: TrainConfig, backend: str, low: Any
) -> dict[str, int]:
    """Return the bytes by part at the peak of a step, without weights and buffers, which are counted as static.

    Two accumulated batches are enough: gradients of the first exist while the second runs, and later ones repeat it.
    """
    gpu = GpuOnMeta(low)
    encode_each_shape_once(model)
    run_frozen_parts_without_gradients(model)
    model.train()
    if backend == "unsloth" and not config.adapt_experts:
        compile_layers(model)
    if config.gradient_checkpointing:
        _checkpoint(model, gpu)
        if backend == "unsloth":  # Unsloth offloads with DDP too, through NonReentrantActivationOffloader
            offload_layer_inputs(model, gpu)
    bare: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    trace = MemoryTrace(bare.config.get_text_config().vocab_size)
    for weight in [*model.parameters(), *model.buffers()]:
        trace.leave_out(weight)
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(trace.count_as_gradient)
    if config.vision_features_dir:
        serve_kept_features(model, trace)
    gc.collect()
    gc.disable()  # the peak must not depend on when the collector runs
    try:
        with trace, gpu:
            inputs = _inputs(batch, config, trace)
            for _ in range(min(config.gradient_accumulation_steps, 2)):
                loss = fused_loss(bare, inputs) if backend == "unsloth" else _loss(model, inputs)
                torch.autograd.backward([loss])
                del loss
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        # A model that reads the values of a meta tensor raises any of these.
        raise UserError(
            f"a step of this model cannot be traced without values ({first_line(error)})",
            where=f"base_model {config.base_model!r}",
        ) from error
    finally:
        gc.enable()
    return trace.peak


def _inputs(batch: dict[str, Any], config: TrainConfig, trace: MemoryTrace) -> dict[str, Any]:
    pixels = [name for name in batch if config.vision_features_dir and name.startswith("pixel_values")]
    with trace.not_counting():
        # With stored features, only the shapes are used.
        kept = {name: on_the_gpu(name, batch[name], trace) for name in pixels}
    return {name: on_the_gpu(name, value, trace) for name, value in batch.items() if name not in kept} | kept


def _loss(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    outputs = model(**inputs)
    _logits = outputs.logits.float()  # accelerate returns all outputs in float32
    loss: torch.Tensor = outputs.loss
    return loss


def _checkpoint(model: PreTrainedModel | PeftModel, gpu: GpuOnMeta) -> None:
    contexts = {"use_reentrant": False, "context_fn": lambda: (contextlib.nullcontext(), gpu)}
    model.gradient_checkpointing_enable(contexts)
    if isinstance(model, PeftModel):
        model.enable_input_require_grads()


def _loading_peak(model: torch.nn.Module, config: TrainConfig, backend: str, weights: int) -> int:
    """Return the peak while loading: the standard backend loads experts in 16 bits and packs them afterwards."""
    if backend == "unsloth" or not packed_bits(config) or not packs_experts(config, backend):
        return weights
    return weights + sum(2 * values - size for values, size, expert in _plain_and_packed(model) if expert)


def _plain_and_packed(model: torch.nn.Module) -> list[tuple[int, int, bool]]:
    """Return for each weight its number of values, its number of stored elements, and whether it is a packed expert."""
    shapes: dict[int, int] = {}
    for stored in model.modules():
        if isinstance(stored, parametrize.ParametrizationList) and isinstance(stored[0], PackedWeight):
            shapes[id(stored.original)] = stored[0].shape.numel()
    linear: dict[int, int] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            linear[id(module.weight)] = module.in_features * module.out_features
    return [
        (shapes.get(id(weight), linear.get(id(weight), weight.numel())), weight.numel(), id(weight) in shapes)
        for weight in model.parameters()
    ]


def _formats(model: torch.nn.Module, config: TrainConfig) -> dict[str, int]:
    bytes_by_format: Counter[str] = Counter()
    for name, counts in weight_formats(model).items():
        label = ("nf4" if config.load_in_4bit else "int8") if name == "uint8" else name
        bytes_by_format[label] += counts["bytes"]
    return dict(bytes_by_format)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def main() -> int:
    """Read a config and pages from standard input, print the estimate, and return the exit code."""
    transformers_logging.set_verbosity_error()
    request = json.load(sys.stdin)
    try:
        estimate = estimate_memory(
            TrainConfig.model_validate(request["config"]), Pages(**request["pages"]), request["backend"]
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODE_USER_ERROR
    print(json.dumps(asdict(estimate)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
