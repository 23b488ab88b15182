"""The vision part: SAM's features of a view, and CLIP's reading of them, side by side (arXiv 2510.18234, section 3.2).

SAM ViT-B with its compressor is transformers' class of DeepSeek-OCR-2; CLIP-L takes SAM's features in place of its own
patches.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import (
    DeepseekOcr2PreTrainedModel,
    DeepseekOcr2SamVisionEncoder,
)

from .configuration import DeepseekOcrClipConfig, DeepseekOcrConfig, DeepseekOcrVisionConfig


class DeepseekOcrClipEmbeddings(nn.Module):
    """Puts a class token before SAM's features and adds position embeddings, interpolated to the features' grid.

    ``patch_embedding`` has weights in the published checkpoint and is not used: SAM's features take its place.
    """

    def __init__(self, config: DeepseekOcrClipConfig) -> None:
        super().__init__()
        self.grid = config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(self.grid**2 + 1, config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (views, 1 + rows * columns, hidden size) for ``features`` of (views, hidden size, rows, columns)."""
        rows, columns = features.shape[-2:]
        tokens = features.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(features), 1, -1), tokens], dim=1)
        return tokens + self._positions(rows, columns)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        positions = self.position_embedding.weight
        if (rows, columns) == (self.grid, self.grid):
            return positions
        known = positions[1:].unflatten(0, (self.grid, self.grid)).permute(2, 0, 1)[None]
        resized = nn.functional.interpolate(
            known.float(), size=(rows, columns), mode="bicubic", antialias=True, align_corners=False
        )
        return torch.cat([positions[:1], resized[0].flatten(1).T.to(positions.dtype)])


class DeepseekOcrClipAttention(nn.Module):
    """Multi-head attention between all tokens of a view, with one projection for queries, keys and values."""

    def __init__(self, config: DeepseekOcrClipConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the same shape as ``hidden_states``: (views, tokens, hidden size)."""
        projected = self.qkv_proj(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        output = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(output.transpose(1, 2).flatten(2))


class DeepseekOcrClipMLP(nn.Module):
    """Two linear layers with CLIP's quick GELU between."""

    def __init__(self, config: DeepseekOcrClipConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the same shape as ``hidden_states``."""
        return self.fc2(self.activation(self.fc1(hidden_states)))


class DeepseekOcrClipLayer(GradientCheckpointingLayer):
    """Attention and MLP, each after a layer norm and with a residual."""

    def __init__(self, config: DeepseekOcrClipConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = DeepseekOcrClipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = DeepseekOcrClipMLP(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the same shape as ``hidden_states``."""
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states))
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class DeepseekOcrPreTrainedModel(DeepseekOcr2PreTrainedModel):
    """What all modules of the model share: how weights start, and which layers stay on one device."""

    config_class: Any = DeepseekOcrConfig
    _no_split_modules = [  # noqa: RUF012 - as transformers declares it
        *("DeepseekOcr2SamVisionLayer", "DeepseekOcrClipLayer", "DeepseekOcr2TextDecoderLayer")
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DeepseekOcrClipEmbeddings):
            init.normal_(module.class_embedding, std=module.class_embedding.shape[-1] ** -0.5)


class DeepseekOcrClipEncoder(DeepseekOcrPreTrainedModel):
    """CLIP-L without its final norm. The norm before the layers has the published name, letter for letter."""

    config_class = DeepseekOcrClipConfig

    def __init__(self, config: DeepseekOcrClipConfig) -> None:
        super().__init__(config)
        self.embeddings = DeepseekOcrClipEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([DeepseekOcrClipLayer(config) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (views, 1 + rows * columns, hidden size) for SAM's ``features``, (views, channels, rows, columns)."""
        hidden_states = self.pre_layrnorm(self.embeddings(features))
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states


class DeepseekOcrVisionModel(DeepseekOcrPreTrainedModel):
    """SAM and CLIP: the features of views, CLIP's before SAM's for each cell of 64x64 pixels."""

    config_class = DeepseekOcrVisionConfig

    def __init__(self, config: DeepseekOcrVisionConfig) -> None:
        super().__init__(config)
        self.sam_encoder = DeepseekOcr2SamVisionEncoder(config.sam_config)
        self.clip_encoder = DeepseekOcrClipEncoder(config.clip_config)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutput:
        """Return (views, cells, CLIP's and SAM's width) for ``pixel_values`` of (views, 3, height, width)."""
        seen = self.sam_encoder(pixel_values, **kwargs).last_hidden_state
        read = self.clip_encoder(seen)[:, 1:]
        both: Any = torch.cat([read, seen.flatten(2).transpose(1, 2)], dim=-1)
        return BaseModelOutput(last_hidden_state=both)
