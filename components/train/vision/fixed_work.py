"""Separates what a vision encoder computes from its pictures' sizes and its weights from what it computes from pixels.

Encoders that pack pictures of different sizes compute positions, windows and segments from the sizes, with loops on the
host and reads from the GPU, which a CUDA graph cannot record. For pictures of the same sizes the results are the same,
so they are computed once, and kept where the work on pixels reads them; a second run does only that work. It copies
nothing between host and GPU: what the host gives to it, an order of rows for instance, was copied in the first run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_iter, tree_map, tree_unflatten
from transformers.utils import import_utils

_FROM_PIXELS = object()
# Another name for the same memory; PyTorch calls it or not, depending on who else holds the tensor.
_SAME_MEMORY = torch.ops.aten.detach.default
_COPY = torch.ops.aten._to_copy.default
_OF_VALUES = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)

Substitutes = dict[int, torch.Tensor]
"""Copies on the pictures' device of tensors that the host made, by the place in an operation's flattened arguments."""


class NotSeparableError(RuntimeError):
    """The encoder writes pixels' values into a tensor made before, or does not run the same operations again."""


class ReadsPixelsError(RuntimeError):
    """The host reads values that depend on pixels: such an encoder cannot be recorded."""


class FixedWork:
    """An encoder's work for pictures of one shape and size.

    Args:
        encode: the encoder; it takes the pictures alone, and reads no other changing tensors.
        pictures: the first pictures; only their shape and device matter.

    Raises:
        NotSeparableError: see there.
        ReadsPixelsError: see there.
    """

    def __init__(self, encode: Callable[[torch.Tensor], Any], pictures: torch.Tensor) -> None:
        self._encode = encode
        results: list[tuple[Any, Any, Substitutes]] = []
        self._fed: list[torch.Tensor] = []  # a CUDA graph reads them by address, so they must stay alive
        with _Separating(pictures, results, self._fed), _CopyingInSight():
            output = encode(pictures)
        read = [*self._fed, *(value for value in tree_iter(output) if isinstance(value, torch.Tensor))]
        kept = {(storage := tensor.untyped_storage())._cdata: storage for tensor in read}
        self._results = [
            (operation, tree_map(lambda value: _restored(value, kept), result), substitutes)
            for operation, result, substitutes in results
        ]

    def run(self, pictures: torch.Tensor) -> Any:
        """Return the encoder's output for ``pictures``, of the same shape as the first ones."""
        replaying = _Replaying(self._results)
        with replaying, _CopyingInSight(), _as_without_a_recording():
            output = self._encode(pictures)
        replaying.check_all_were_run()
        return output


@contextmanager
def _as_without_a_recording() -> Iterator[None]:
    """Let transformers take the first run's course in a recording too: there it makes masks that it else leaves out.

    What it leaves out it has checked by reading values on the host, and the second run returns the first one's values.
    """
    asked = import_utils.is_cuda_stream_capturing
    vars(import_utils)[asked.__name__] = lambda: False
    try:
        yield
    finally:
        vars(import_utils)[asked.__name__] = asked


class _CopyingInSight(TorchFunctionMode):
    """Lets ``torch.tensor(values, device=...)`` copy by an operation of its own.

    PyTorch copies inside that function, hidden from dispatch modes: the second run would copy again, and CUDA refuses
    copies from the host's ordinary memory during a recording.
    """

    def __torch_function__(self, function: Any, types: Any, places: Any = (), options: Any = None) -> Any:
        options = dict(options or {})
        if function not in _OF_VALUES:
            return function(*places, **options)
        device = options.get("device")
        if device is None and function is torch.Tensor.new_tensor:
            device = places[0].device
        if device is None:
            return function(*places, **options)
        return function(*places, **options | {"device": "cpu"}).to(device)


@dataclass(frozen=True)
class _Result:
    """A tensor of the first run, without its values; ``storage`` does not keep its memory."""

    storage: StorageWeakRef
    offset: Any
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def _described(value: Any) -> Any:
    """Return a description of a tensor on the device, and other values as they are, which the host may read."""
    if not isinstance(value, torch.Tensor) or _host_may_read(value):
        return value
    storage = StorageWeakRef(value.untyped_storage())
    return _Result(storage, value.storage_offset(), value.shape, value.stride(), value.dtype, value.device)


def _host_may_read(value: torch.Tensor) -> bool:
    return value.device.type == "cpu"


def _restored(value: Any, kept: dict[int, torch.UntypedStorage]) -> Any:
    """Return the described tensor: with its values if its memory is in ``kept``, else without memory.

    The second run does not compute with the others: it hands them on to operations whose results it has.
    """
    if not isinstance(value, _Result):
        return value
    if (storage := kept.get(value.storage.cdata)) is not None:
        empty = torch.empty(0, dtype=value.dtype, device=value.device)
        return empty.set_(storage, value.offset, value.shape, value.strides)
    return _without_memory(value)


def _without_memory(described: _Result) -> torch.Tensor:
    form = torch.empty_strided(described.shape, described.strides, dtype=described.dtype, device=described.device)
    form.untyped_storage().resize_(0)
    return form


class _Separating(TorchDispatchMode):
    """Runs every operation and describes the results of those that no pixel reaches, in their order.

    What an operation reads that pixels reach is kept in ``fed``; the memory of all others is freed as in any run.
    Pixels reach a tensor through its memory: views share it. Weak references keep the address of freed memory taken,
    so that another tensor cannot be confused with it.
    """

    def __init__(
        self, pictures: torch.Tensor, results: list[tuple[Any, Any, Substitutes]], fed: list[torch.Tensor]
    ) -> None:
        super().__init__()
        self._device = pictures.device
        self._results = results
        self._fed = fed
        self._reached: dict[int, StorageWeakRef] = {}
        self._reach(pictures)

    def __torch_dispatch__(self, operation: Any, types: Any, places: Any = (), options: Any = None) -> Any:
        options = options or {}
        if operation is _SAME_MEMORY:
            return operation(*places, **options)
        fed = [value for value in tree_iter((places, options)) if isinstance(value, torch.Tensor)]
        from_pixels = any(self._is_reached(tensor) for tensor in fed)
        if from_pixels and any(not self._is_reached(tensor) for tensor in _written(operation, places, options)):
            raise NotSeparableError(f"{operation} writes pixels' values into a tensor that was made before")
        if from_pixels and torch.Tag.data_dependent_output in operation.tags:
            raise ReadsPixelsError(f"the host reads values that depend on pixels ({operation})")
        substitutes = self._copies_of_host_values(places, options) if from_pixels else {}
        result = _run(operation, places, options, substitutes)
        if from_pixels and operation is _COPY and result.device != self._device:
            raise ReadsPixelsError(f"values that depend on pixels are copied to the {result.device.type}")
        if from_pixels:
            self._fed += [tensor for tensor in fed if not self._is_reached(tensor)]
            for value in tree_iter(result):
                if isinstance(value, torch.Tensor):
                    self._reach(value)
        kept = _FROM_PIXELS if from_pixels else tree_map(_described, result)
        self._results.append((operation, kept, substitutes))
        return result

    def _copies_of_host_values(self, places: Any, options: Any) -> Substitutes:
        """Return copies of the tensors that an operation would copy itself, as indexing does with an order of rows.

        A tensor without dimensions is passed as a number; it is not copied.
        """
        return {
            place: value.to(self._device)
            for place, value in enumerate(tree_iter((places, options)))
            if isinstance(value, torch.Tensor)
            and value.device != self._device
            and value.ndim > 0
            and not self._is_reached(value)
        }

    def _reach(self, tensor: torch.Tensor) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        self._reached[reference.cdata] = reference

    def _is_reached(self, tensor: torch.Tensor) -> bool:
        return StorageWeakRef(tensor.untyped_storage()).cdata in self._reached


class _Replaying(TorchDispatchMode):
    """Runs only the operations that pixels reach, and returns the kept results of the others."""

    def __init__(self, results: list[tuple[Any, Any, Substitutes]]) -> None:
        super().__init__()
        self._results = results
        self._next = 0

    def __torch_dispatch__(self, operation: Any, types: Any, places: Any = (), options: Any = None) -> Any:
        if operation is _SAME_MEMORY:
            return operation(*places, **(options or {}))
        expected: Any = None
        result: Any = None
        substitutes: Substitutes = {}
        if self._next < len(self._results):
            expected, result, substitutes = self._results[self._next]
        if operation is not expected:
            raise NotSeparableError(f"{operation} instead of {expected} in the second run")
        self._next += 1
        if result is _FROM_PIXELS:
            return _run(operation, places, options or {}, substitutes)
        # Another tensor over the same memory: autograd marks the one that it gets as a view of its input, once.
        return tree_map(lambda value: value.detach() if isinstance(value, torch.Tensor) else value, result)

    def check_all_were_run(self) -> None:
        if self._next < len(self._results):
            raise NotSeparableError(f"the second run ended before {self._results[self._next][0]}")


def _run(operation: Any, places: Any, options: Any, substitutes: Substitutes) -> Any:
    if substitutes:
        values, form = tree_flatten((places, options))
        places, options = tree_unflatten([substitutes.get(place, value) for place, value in enumerate(values)], form)
    return operation(*places, **options)


def _written(operation: Any, places: Any, options: Any) -> list[torch.Tensor]:
    """Return the tensors that an operation changes in place."""
    schema = operation._schema
    if not schema.is_mutable:
        return []
    given = dict(zip((argument.name for argument in schema.arguments), places, strict=False)) | options
    changed = [given.get(each.name) for each in schema.arguments if each.alias_info and each.alias_info.is_write]
    return [value for value in tree_iter(changed) if isinstance(value, torch.Tensor)]
