"""SAM's attention layers without the table of position biases.

DeepSeek-OCR's first encoder is SAM's (Kirillov et al., 2023, "Segment Anything"). It adds decomposed relative position
biases to the attention scores: for each pair of patches, the query's products with the embeddings of their distance in
rows and in columns (Li et al., 2022, "MViTv2", section 4.1). PyTorch's fused attention takes these biases as a table of
heads x patches x patches: 0.4 GB in 16 bits for a page of 1,024 pixels in each layer with global attention. The same
sum can be computed as a dot product: append the query's biases for all rows and all columns to the query, and one-hot
vectors of the key's row and column to the key.
"""

import functools
from typing import Any

import torch

_MARK = "_folds_position_biases"
_HEAD_SIZE_MULTIPLE = 8  # of the fused kernels


def fold_position_biases(model: torch.nn.Module) -> int:
    """Make the SAM layers of ``model`` attend without the table whenever no gradients are computed.

    The outputs are the same up to rounding. Returns the number of such layers; models without them are not changed.
    """
    layers: list[Any] = [module for module in model.modules() if _is_sam_attention(module)]
    for layer in layers:
        if not getattr(layer, _MARK, False):
            layer.forward = _without_table(layer)
            setattr(layer, _MARK, True)
    return len(layers)


def _is_sam_attention(module: Any) -> bool:
    # By name: each model family has its own class, and Unsloth compiles another one.
    return type(module).__name__.endswith("SamVisionSdpaAttention") and bool(module.use_rel_pos)


def _without_table(layer: Any) -> Any:
    forward = layer.forward
    positions = _Positions(layer)

    @functools.wraps(forward)
    def folded_forward(hidden_states: torch.Tensor, output_attentions: Any = False) -> Any:
        if torch.is_grad_enabled() or output_attentions:
            return forward(hidden_states, output_attentions)
        pages, height, width, _ = hidden_states.shape
        qkv = layer.qkv(hidden_states).view(pages, height * width, 3, layer.num_attention_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (pages, heads, patches, head size) each
        size = query.shape[-1]
        said, own = positions.of(query, height, width)
        query = torch.cat([query * size**-0.5, said], dim=-1)
        key = torch.cat([key, own.expand(*key.shape[:2], -1, -1)], dim=-1)
        # Pad the values to the same head size; only memory-efficient attention accepts a different one.
        value = torch.nn.functional.pad(value, (0, key.shape[-1] - size))
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :size]
        return layer.proj(output.transpose(1, 2).reshape(pages, height, width, -1)), None

    return folded_forward


class _Positions:
    """What is appended to a layer's queries and keys; recomputed if the picture's size or trained weights change.

    Recorded encoders read these tensors, so they must stay alive while frozen weights are the same. DDP rewrites
    frozen weights with equal values.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._made: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def of(self, query: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values to append: (pages, heads, patches, more) for the queries, (patches, more) for the keys.

        ``query`` has the shape (pages, heads, height * width, head size).
        """
        weights = (self._layer.rel_pos_h, self._layer.rel_pos_w)
        versions = tuple((weight.data_ptr(), weight._version if weight.requires_grad else 0) for weight in weights)
        key = (height, width, query.dtype, query.device, versions)
        made = self._made.get(key)
        if made is None:  # several threads may come here at once: the dictionary is replaced, never changed
            made = self._new(query, height, width)
            self._made = {known: one for known, one in self._made.items() if known[-1] == versions} | {key: made}
        rows, columns, own = made
        grid = query.unflatten(2, (height, width))
        said = [torch.einsum("bnhwc,hkc->bnhwk", grid, rows), torch.einsum("bnhwc,wkc->bnhwk", grid, columns)]
        if spare := own.shape[-1] - height - width:
            said.append(query.new_zeros(1).expand(*grid.shape[:-1], spare))
        return torch.cat(said, dim=-1).flatten(2, 3), own

    def _new(self, query: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the relative positions, (rows, rows, head size) and likewise for columns, and the keys' one-hots."""
        with torch.inference_mode(False), torch.no_grad():  # the tensors outlive a surrounding inference mode
            layer = self._layer
            rows = layer.get_rel_pos(height, height, layer.rel_pos_h).to(query.dtype)
            columns = layer.get_rel_pos(width, width, layer.rel_pos_w).to(query.dtype)
            more = height + width + -(query.shape[-1] + height + width) % _HEAD_SIZE_MULTIPLE
            own = torch.zeros(height, width, more, dtype=query.dtype, device=query.device)
            own[:, :, :height] = torch.eye(height, dtype=query.dtype, device=query.device)[:, None]
            own[:, :, height : height + width] = torch.eye(width, dtype=query.dtype, device=query.device)
            return rows, columns, own.flatten(0, 1)
