"""The whole model: views of pages through the vision part, a layout of their tokens, and the language model.

The language model is transformers' ``DeepseekOcr2TextModel``: DeepSeek-V2's mixture of experts with plain multi-head
attention (DeepSeek3B-MoE-A570M).
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import (
    DeepseekOcr2CausalLMOutputWithPast,
    DeepseekOcr2Model,
    DeepseekOcr2ModelOutputWithPast,
    DeepseekOcr2TextModel,
)

from .configuration import DeepseekOcrConfig
from .vision import DeepseekOcrPreTrainedModel, DeepseekOcrVisionModel


class DeepseekOcrModel(DeepseekOcrPreTrainedModel):
    """Vision part, linear projector and language model without its head.

    ``images_spatial_crop`` has the published name: for each page the columns and rows of its tiles, 1 and 1 for a page
    without tiles. A row of image tokens ends with ``image_newline``, a page with ``view_separator``.
    """

    get_placeholder_mask: Any = DeepseekOcr2Model.get_placeholder_mask

    def __init__(self, config: DeepseekOcrConfig) -> None:
        super().__init__(config)
        vision, width = config.vision_config, config.text_config.hidden_size
        self.vision_tower = DeepseekOcrVisionModel(vision)
        self.multi_modal_projector = nn.Linear(
            vision.clip_config.hidden_size + vision.sam_config.downsample_channels[-1], width
        )
        self.language_model = DeepseekOcr2TextModel(config.text_config)
        self.vocab_size = config.text_config.vocab_size
        self.image_newline = nn.Parameter(torch.empty(width))
        self.view_separator = nn.Parameter(torch.empty(width))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DeepseekOcrModel):
            for token in (module.image_newline, module.view_separator):
                init.normal_(token, std=token.shape[-1] ** -0.5)

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_values_local: torch.Tensor | None = None,
        images_spatial_crop: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Return ``pooler_output``: for each page its image tokens, (tokens, hidden size).

        ``pixel_values`` are the pages' global views, (pages, 3, height, width); ``pixel_values_local`` the tiles of all
        pages, (tiles, 3, height, width), row by row. The tokens of a page's tiles come before those of its global view.
        """
        kwargs.pop("return_dict", None)
        seen = self.vision_tower(pixel_values, **kwargs).last_hidden_state
        views = self._with_newlines(_square(self.multi_modal_projector(seen)))
        grids = [(1, 1)] * len(views) if images_spatial_crop is None else images_spatial_crop.tolist()
        counts: list[int] = [columns * rows if columns * rows > 1 else 0 for columns, rows in grids]
        tiles: list[torch.Tensor] = []
        if pixel_values_local is not None and any(counts):
            local = self.vision_tower(pixel_values_local, **kwargs).last_hidden_state
            tiles = list(_square(self.multi_modal_projector(local)).split(counts))
        pages: Any = []
        for page, (view, count) in enumerate(zip(views, counts, strict=True)):
            parts = [view, self.view_separator[None]]
            if count:
                parts.insert(0, self._with_newlines(_joined(tiles[page], *grids[page])[None])[0])
            pages.append(torch.cat(parts))
        return BaseModelOutputWithPooling(last_hidden_state=seen, pooler_output=pages)

    def _with_newlines(self, grids: torch.Tensor) -> torch.Tensor:
        """Return (views, rows * (columns + 1), hidden size) for ``grids`` of (views, rows, columns, hidden size)."""
        newlines = self.image_newline.expand(*grids.shape[:2], 1, -1)
        return torch.cat([grids, newlines], dim=2).flatten(1, 2)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_local: torch.Tensor | None = None,
        images_spatial_crop: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> DeepseekOcr2ModelOutputWithPast:
        """Return the language model's last hidden states, (pages, tokens, hidden size)."""
        kwargs.pop("return_dict", None)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        features: Any = None
        if pixel_values is not None:
            pages: Any = self.get_image_features(
                pixel_values, pixel_values_local, images_spatial_crop, return_dict=True
            )
            features = torch.cat(tuple(pages.pooler_output)).to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, features)
            inputs_embeds = inputs_embeds.masked_scatter(mask, features)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return DeepseekOcr2ModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=features,
        )


class DeepseekOCRForCausalLM(DeepseekOcrPreTrainedModel, GenerationMixin):
    """The model with its head, under the published class's name, which a saved ``config.json`` repeats."""

    _tied_weights_keys = {  # noqa: RUF012 - as transformers declares it
        "lm_head.weight": "model.language_model.embed_tokens.weight"
    }

    def __init__(self, config: DeepseekOcrConfig) -> None:
        super().__init__(config)
        self.model = DeepseekOcrModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.lm_head

    def get_image_features(self, *inputs: Any, **options: Any) -> BaseModelOutputWithPooling:
        """Return the pages' image tokens; see ``DeepseekOcrModel.get_image_features``."""
        return self.model.get_image_features(*inputs, **options)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_local: torch.Tensor | None = None,
        images_spatial_crop: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> DeepseekOcr2CausalLMOutputWithPast:
        """Return logits, (pages, tokens, vocabulary), and with ``labels`` the loss; see ``DeepseekOcrModel``."""
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            pixel_values_local=pixel_values_local,
            images_spatial_crop=images_spatial_crop,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return DeepseekOcr2CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )


def _square(tokens: torch.Tensor) -> torch.Tensor:
    """Return (views, side, side, hidden size) for ``tokens`` of square views, (views, side * side, hidden size)."""
    return tokens.unflatten(1, (math.isqrt(tokens.shape[1]), -1))


def _joined(tiles: torch.Tensor, columns: int, rows: int) -> torch.Tensor:
    """Return one grid, (rows * side, columns * side, hidden size), of a page's ``tiles``, given row by row."""
    return tiles.unflatten(0, (rows, columns)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
