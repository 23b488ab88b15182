"""Follows the values of small meta tensors, so that a shape which depends on values is known.

The meta device computes shapes without values, but some shapes depend on values: ``hidden[mask]`` has as many rows as
the mask is true. Such values come from the processor, which has made a real page: tokens, masks, positions. They are
computed on the CPU beside the meta tensors as long as they are whole numbers or booleans and few. A mask that depends
on the pixels is unknown, and counts as true everywhere: no real step needs more.
"""

from typing import Any

import torch
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

_aten = torch.ops.aten
_MOST_VALUES = 2**24
_INDEXED_BY_MASKS = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
_MADE_OF_NOTHING = {
    *(_aten.arange.default, _aten.arange.start, _aten.arange.start_step),
    *(_aten.zeros.default, _aten.ones.default, _aten.full.default),
}
_NOT_FOLLOWED = {_aten.empty_like.default, _aten.new_empty.default}


class KnownValues:
    """The values of meta tensors, where they are known."""

    def __init__(self) -> None:
        self._values = WeakTensorKeyDictionary()

    def learn(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Remember that the meta tensor ``tensor`` has the values of ``value``, unless they are too many."""
        if not value.is_floating_point() and value.untyped_storage().nbytes() // value.element_size() <= _MOST_VALUES:
            self._values[tensor] = value

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return the values; None if they are not known."""
        if tensor.device.type != "meta":
            return None if tensor.is_floating_point() else tensor
        found: torch.Tensor | None = self._values.get(tensor)
        return found

    def follow(self, operation: Any, places: Any, options: Any, result: Any) -> None:
        """Compute the values of an operation's result, a meta tensor, from those of its inputs if all are known."""
        given = [leaf for leaf in tree_iter((places, options)) if isinstance(leaf, torch.Tensor)]
        if operation._schema.is_mutable:
            self._forget(_written(operation, places))
            return
        followed = given or operation in _MADE_OF_NOTHING
        if not followed or not isinstance(result, torch.Tensor) or result.is_floating_point():
            return
        if operation in _NOT_FOLLOWED or torch.Tag.nondeterministic_seeded in operation.tags:
            return
        if any(self.of(tensor) is None for tensor in given):
            return
        places, options = tree_map(self._on_the_cpu, (places, options))
        self.learn(result, operation(*places, **options))

    def with_indices_for_masks(self, operation: Any, places: Any) -> Any:
        """Return an indexing operation's arguments with positions, one tensor per dimension, for each boolean mask."""
        if operation not in _INDEXED_BY_MASKS:
            return places
        indices: list[Any] = []
        for index in places[1]:
            is_mask = isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            indices += self.positions(index).unbind(1) if is_mask else [index]
        return (places[0], indices, *places[2:])

    def positions(self, mask: torch.Tensor) -> torch.Tensor:
        """Return what ``nonzero`` returns, as a meta tensor: a row for each true element."""
        value = self.of(mask)
        count = mask.numel() if value is None else int(value.count_nonzero())
        return torch.empty((count, mask.dim()), dtype=torch.int64, device="meta")

    def _forget(self, written: list[torch.Tensor]) -> None:
        storages = {tensor.untyped_storage()._cdata for tensor in written if not tensor.is_floating_point()}
        for tensor in [each for each in self._values if each.untyped_storage()._cdata in storages]:
            del self._values[tensor]

    def _on_the_cpu(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return self.of(leaf)
        return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _written(operation: Any, places: Any) -> list[torch.Tensor]:
    arguments = zip(operation._schema.arguments, places, strict=False)
    changed = [place for argument, place in arguments if argument.alias_info and argument.alias_info.is_write]
    return [leaf for leaf in tree_iter(changed) if isinstance(leaf, torch.Tensor)]
