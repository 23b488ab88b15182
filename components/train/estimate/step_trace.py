"""Counts the bytes of a training step on the meta device: the real modules run, but nothing is computed.

Two modes are active together. ``MemoryTrace`` counts every meta tensor from its creation until it is freed and keeps
the sums at the peak. ``GpuOnMeta`` makes the meta device allocate as a GPU does: it applies the casts of autocast and
replaces attention by a stand-in for the fused kernels, which keep the queries, keys, values, the output and one float32
number per row. Autograd, PEFT and gradient checkpointing run unchanged, so what they keep alive needs no model.

The stand-ins here and in the files beside it are ``autograd.Function``s. They allocate, in the same order, what the
real operation allocates, and save what it saves. Locals with a leading underscore are temporary buffers: they exist to
be counted.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from components.train.estimate.known_values import KnownValues

# The CUDA allocator hands out multiples of this many bytes.
_ALLOCATION_BYTES = 512
_READ_ON_THE_GPU = ("_ids", "_mask", "labels")  # ends of names; the host reads the others, such as a picture's grid

_functional = torch.nn.functional
# From PyTorch's lists (docs/stable/amp.html, "CUDA Ops that can autocast"): the operations that vision-language models
# use.
_LOW_PRECISION = {
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.bmm, torch.Tensor.bmm),
    *(torch.addmm, torch.baddbmm, torch.einsum, torch.conv1d, torch.conv2d, torch.conv3d, _functional.linear),
    *(_functional.conv1d, _functional.conv2d, _functional.conv3d, _functional.conv_transpose2d),
    _functional.multi_head_attention_forward,  # not in the lists, but all its products are; SigLIP's pooling
}
_FLOAT32 = {
    *(_functional.layer_norm, _functional.group_norm, _functional.softmax, torch.softmax, torch.Tensor.softmax),
    *(_functional.log_softmax, torch.log_softmax, _functional.cross_entropy, torch.rsqrt, torch.Tensor.rsqrt),
    *(torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.exp, torch.Tensor.exp, torch.log, torch.Tensor.log),
}


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty((*query.shape[:-1], value.shape[-1]), dtype=query.dtype, device=query.device)
        log_sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, log_sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _, log_sums = ctx.saved_tensors
        _row_sums = torch.empty_like(log_sums)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _GroupedProduct(torch.autograd.Function):
    """Product of float32 rows with their experts' weights; PyTorch's meta device supports bfloat16 only."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight)
        ctx.rows_shape = rows.shape
        return torch.empty((rows.shape[0], weight.shape[-1]), dtype=rows.dtype, device=rows.device)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows, weight = ctx.saved_tensors
        gradient = torch.empty(ctx.rows_shape, dtype=weight.dtype, device=weight.device)
        return gradient, None if rows is None else torch.empty_like(weight)


class GpuOnMeta(TorchFunctionMode):
    """Makes meta tensors behave as on a GPU: fused attention, and autocast to ``low_precision`` unless it is None."""

    def __init__(self, low_precision: torch.dtype | None) -> None:
        super().__init__()
        self._low_precision = low_precision

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is _functional.scaled_dot_product_attention:
            return _FusedAttention.apply(*(self._cast(part, self._low_precision) for part in args[:3]))
        if func is torch._grouped_mm and args[1].dtype == torch.float32:
            return _GroupedProduct.apply(args[0], args[1])
        if func in _LOW_PRECISION:
            args, options = tree_map(lambda value: self._cast(value, self._low_precision), (args, options))
        elif func in _FLOAT32:
            args, options = tree_map(lambda value: self._cast(value, torch.float32), (args, options))
        return func(*args, **options)

    def _cast(self, value: Any, dtype: torch.dtype | None) -> Any:
        if self._low_precision is None or dtype is None or not isinstance(value, torch.Tensor):
            return value
        return value.to(dtype) if value.is_floating_point() else value


class MemoryTrace(TorchDispatchMode):
    """Counts the bytes of the meta tensors that are alive, by part.

    ``peak`` holds the bytes by part when their sum was highest: ``logits`` (tensors whose last dimension is the
    vocabulary size), ``gradients`` (passed to ``count_as_gradient``) and ``activations`` (all others, temporary values
    included). Tensors passed to ``leave_out`` are not counted. ``values`` has those of some tensors.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.peak: dict[str, int] = {}
        self.values = KnownValues()
        self._vocabulary = vocabulary
        self._counting = True
        self._live: Counter[str] = Counter()
        self._parts: weakref.WeakKeyDictionary[torch.UntypedStorage, list[str]] = weakref.WeakKeyDictionary()

    def leave_out(self, tensor: torch.Tensor) -> None:
        """Do not count ``tensor``."""
        self._parts[tensor.untyped_storage()] = []

    @contextmanager
    def not_counting(self) -> Iterator[None]:
        """Within the context, count nothing that is made."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True

    def count_as_gradient(self, weight: torch.Tensor) -> None:
        """Move the gradient of ``weight``, which lives until the end of the step, from its part to ``gradients``."""
        assert weight.grad is not None
        storage = weight.grad.untyped_storage()
        if part := self._parts.get(storage):
            size = _allocated(storage)
            self._live[part[0]] -= size
            part[0] = "gradients"
            self._live["gradients"] += size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._is_all_true.default:  # a model's check of its inputs: it passes
            return torch.ones((), dtype=torch.bool)
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        on_meta = any(isinstance(leaf, torch.Tensor) and leaf.device.type == "meta" for leaf in leaves)
        if func is torch.ops.aten._local_scalar_dense.default and on_meta:
            value = None if args[0].dtype == torch.bool else self.values.of(args[0])
            return False if value is None else value.item()  # for "is every token attended to?", False keeps the mask
        if func is torch.ops.aten.nonzero.default and on_meta:
            return self.values.positions(args[0])
        given = args, kwargs
        if on_meta:  # tensors with values, such as a picture's grid, cannot be combined with meta tensors
            args = self.values.with_indices_for_masks(func, args)
            args, kwargs = tree_map(_moved_to_meta, (args, kwargs))
        result = func(*args, **kwargs)
        self.values.follow(func, *given, result)
        for leaf in tree_leaves(result) if self._counting else ():
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "meta":
                self._count(leaf)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._parts:
            return
        part = ["logits" if tensor.dim() > 1 and tensor.shape[-1] == self._vocabulary else "activations"]
        size = _allocated(storage)
        self._parts[storage] = part
        self._live[part[0]] += size
        weakref.finalize(storage, self._free, part, size)
        if self._live.total() > sum(self.peak.values()):
            self.peak = dict(self._live)

    def _free(self, part: list[str], size: int) -> None:
        self._live[part[0]] -= size


def _moved_to_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type != "meta" and value.dim() > 0:
        return value.to("meta")
    return value


def _allocated(storage: torch.UntypedStorage) -> int:
    return -(-storage.nbytes() // _ALLOCATION_BYTES) * _ALLOCATION_BYTES


def on_the_gpu(name: str, value: Any, trace: MemoryTrace) -> Any:
    """Return a counted meta tensor for a tensor that is read on the GPU: pixels, tokens, masks; others as they are."""
    if not isinstance(value, torch.Tensor) or (value.device.type != "meta" and not name.endswith(_READ_ON_THE_GPU)):
        return value
    fresh = torch.empty_like(value, device="meta")
    if value.device.type != "meta":
        trace.values.learn(fresh, value)
    return fresh
