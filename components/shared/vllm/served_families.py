"""Which families vLLM serves, how its classes name their modules, and what of them a LoRA adapter may change.

Read from vLLM 0.32: the class's ``hf_to_vllm_mapper`` renames an adapter's modules as it renames a checkpoint's. A
module that it then does not find is skipped with a line in the debug log, and the base answers. So an adapter is
written under names that the class knows, or refused.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.shared.errors import UserError
from components.shared.vllm.deepseek_config import first_deepseek_ocr, second_deepseek_ocr

_ATTENTION = r"self_attn\.(q|k|v|o)_proj"
_LAYERS = r"model\.language_model\.layers\.\d+\."
_PUBLISHED_LAYERS = r"model\.layers\.\d+\."


@dataclass(frozen=True)
class ServedFamily:
    """How vLLM serves a family.

    Attributes:
        vllm_class: the architecture's name in vLLM.
        adapted: regular expression of the modules, under the written names, that vLLM adapts; None if its class takes
            no LoRA adapter.
        renamed: beginnings of transformers' module names -> what the written names begin with.
        config: makes the ``config.json`` that the class reads; None if it reads transformers' own.
        routed_experts: it has a mixture of experts, for which vLLM 0.32 sets up adapters too unless it is told the
            modules; on a CPU these need Triton, and the first request would end the engine.
        fixed_sizes: the class reads pages at this size (whole page, tile; pixels) whatever the processor says.
        max_crops: and cuts them into at most so many tiles; None for a class without tiles.
    """

    vllm_class: str
    adapted: str | None
    renamed: tuple[tuple[str, str], ...] = ()
    config: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    routed_experts: bool = False
    fixed_sizes: tuple[int, int] | None = None
    max_crops: int | None = None

    def image_options(self) -> dict[str, Any]:
        """Return the options of transformers' processor with which it would see pages as the class always does.

        >>> SERVED_FAMILIES["deepseek_ocr2"].image_options()["tile_size"], SERVED_FAMILIES["qwen2_vl"].image_options()
        (768, {})
        """
        if self.fixed_sizes is None:
            return {}
        page, tile = self.fixed_sizes
        options = {"size": {"height": page, "width": page}, "tile_size": tile, "crop_to_patches": True}
        return options if self.max_crops is None else {**options, "max_patches": self.max_crops}

    def served_name(self, module: str) -> str:
        """Return the name under which vLLM's class finds a module.

        >>> SERVED_FAMILIES["deepseek_ocr2"].served_name("model.language_model.layers.0.self_attn.q_proj")
        'model.layers.0.self_attn.q_proj'
        """
        for ours, theirs in self.renamed:
            if module.startswith(ours):
                return theirs + module.removeprefix(ours)
        return module

    def adapts(self, served_name: str) -> bool:
        """Return whether vLLM adapts the module of this written name."""
        return self.adapted is not None and re.fullmatch(self.adapted, served_name) is not None


_QWEN_MODULES = rf"{_LAYERS}({_ATTENTION}|mlp\.(gate|up|down)_proj)"
# The routed experts of vLLM's class take an adapter of each expert by itself; transformers has them in one tensor.
_DEEPSEEK: dict[str, Any] = {
    "adapted": rf"{_PUBLISHED_LAYERS}({_ATTENTION}|mlp\.(shared_experts\.)?(gate|up|down)_proj)",
    "renamed": (("model.language_model.", "model."),),
    "routed_experts": True,
    # MAX_CROPS in vllm/transformers_utils/processors/deepseek_ocr.py, from the vLLM code of DeepSeek-OCR's authors; the
    # code published with that checkpoint takes 9.
    "max_crops": 6,
}

SERVED_FAMILIES = {
    "deepseek_ocr2": ServedFamily(
        "DeepseekOCR2ForCausalLM", config=second_deepseek_ocr, fixed_sizes=(1024, 768), **_DEEPSEEK
    ),
    "deepseek_vl_v2": ServedFamily(
        "DeepseekOCRForCausalLM", config=first_deepseek_ocr, fixed_sizes=(1024, 640), **_DEEPSEEK
    ),
    "qwen2_vl": ServedFamily("Qwen2VLForConditionalGeneration", _QWEN_MODULES),
    "qwen2_5_vl": ServedFamily("Qwen2_5_VLForConditionalGeneration", _QWEN_MODULES),
    "qwen3_vl": ServedFamily("Qwen3VLForConditionalGeneration", _QWEN_MODULES),
    "paddleocr_vl": ServedFamily("PaddleOCRVLForConditionalGeneration", None),
}
"""By transformers' ``model_type``."""


def served_family(model_type: str, *, adapter: bool) -> ServedFamily:
    """Return how vLLM serves a family; ``adapter``: as an adapter, not as merged weights or a whole model.

    Raises:
        UserError: it was not tried, or its class takes no adapter; the message says the way out.
    """
    family = SERVED_FAMILIES.get(model_type)
    if family is None:
        raise UserError(
            f"whether vLLM serves the family {model_type} was not tried",
            where="export.serving",
            mend=f"leave vllm out; it is known for {', '.join(sorted(SERVED_FAMILIES))}",
        )
    if adapter and family.adapted is None:
        raise UserError(
            f"vLLM serves no LoRA adapter of the family {model_type}",
            where="export.serving",
            mend="export with merge: true; the merged weights are served",
        )
    return family
