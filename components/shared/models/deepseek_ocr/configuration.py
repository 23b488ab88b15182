"""The configuration of the first DeepSeek-OCR, read from and written as the published ``config.json``."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import (
    DeepseekOcr2SamVisionConfig,
    DeepseekOcr2TextConfig,
)

from .published_config import as_published, language_settings, vision_settings


@strict
class DeepseekOcrClipConfig(PreTrainedConfig):
    """The second vision encoder, CLIP-L (Radford et al., 2021), which reads the features of the first one.

    ``image_size`` and ``patch_size`` (pixels) give the grid of position embeddings; other grids are interpolated.
    """

    model_type = "deepseek_ocr_clip"
    base_config_key = "clip_config"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02


@strict
class DeepseekOcrVisionConfig(PreTrainedConfig):
    """The vision part: SAM ViT-B with its 16-fold compressor, then CLIP-L."""

    model_type = "deepseek_ocr_vision"
    base_config_key = "vision_config"
    sub_configs: ClassVar[dict[str, Any]] = {
        "sam_config": DeepseekOcr2SamVisionConfig,
        "clip_config": DeepseekOcrClipConfig,
    }

    sam_config: Any = None
    clip_config: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the parts' configurations; the compressor of SAM's features ends with CLIP's width."""
        if not isinstance(self.clip_config, PreTrainedConfig):
            self.clip_config = DeepseekOcrClipConfig(**(self.clip_config or {}))
        if not isinstance(self.sam_config, PreTrainedConfig):
            # transformers' own initializer_range, 1e-10, would leave a new model blind.
            new = {"downsample_channels": [512, self.clip_config.hidden_size], "initializer_range": 0.02}
            self.sam_config = DeepseekOcr2SamVisionConfig(**{**new, **(self.sam_config or {})})
        super().__post_init__(**kwargs)


@strict
class DeepseekOcrConfig(PreTrainedConfig):
    """The whole model, from the published form: ``language_config``, ``vision_config`` with ``width``.

    ``to_dict``, and so a saved ``config.json``, has that form too: vLLM and the published code read it.

    Raises:
        ValueError: it asks for something that this architecture does not have, such as latent attention.
    """

    model_type = "deepseek_vl_v2"
    sub_configs: ClassVar[dict[str, Any]] = {
        "vision_config": DeepseekOcrVisionConfig,
        "text_config": DeepseekOcr2TextConfig,
    }

    vision_config: Any = None
    text_config: Any = None
    image_token_id: int = 128815
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the parts' configurations."""
        settings, others = language_settings(kwargs)
        if self.text_config is None:
            self.text_config = DeepseekOcr2TextConfig(**settings)
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = DeepseekOcrVisionConfig(**vision_settings(self.vision_config or {}))
        super().__post_init__(**others)

    def to_dict(self) -> dict[str, Any]:
        """Return the published form; the language model names its class's type, by which Unsloth compiles layers."""
        published = as_published(super().to_dict())
        published["language_config"]["model_type"] = self.text_config.model_type
        return published

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is saved: the published form with every setting, since the published code has other defaults."""
        published = {name: value for name, value in self.to_dict().items() if name != "_name_or_path"}
        del published["language_config"]["model_type"]  # other programs take it for the whole model's
        return published


class SavedDeepseekOcrConfig(DeepseekOcrConfig):
    """The same under the ``model_type`` that the published code's ``save_pretrained`` writes."""

    model_type = "DeepseekOCR"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return a ``DeepseekOcrConfig``, so that all other code knows one class."""
        return DeepseekOcrConfig.from_dict({**config_dict, "model_type": DeepseekOcrConfig.model_type}, **kwargs)
