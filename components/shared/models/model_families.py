"""What differs between families of vision-language models; everything else is one code path."""

from dataclasses import dataclass, field
from typing import Any

_LANGUAGE_PROJECTIONS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"


@dataclass(frozen=True)
class ModelFamily:
    """One family's differences, found by transformers' ``model_type``.

    Attributes:
        prompt: the text that asks for a plain transcription, without the image token.
        prompt_template: for processors without a chat template: how the image token and ``{prompt}`` are joined.
        image_options: keyword arguments of the processor's image side.
        language_modules: regular expression of the module names that LoRA adapts by default.
        vision_rows_are_pictures: the vision encoder's input has one picture, or one tile of one, in each row.
        answer_token_type: the value of ``token_type_ids`` over the answer.
        vision_modules: likewise of the vision encoder and the projector, where those are to be trained as well.
    """

    name: str
    prompt: str = "Transcribe the text in this image."
    prompt_template: str | None = None
    image_options: dict[str, Any] = field(default_factory=dict)
    language_modules: str = rf".*language_model\..*\.({_LANGUAGE_PROJECTIONS})"
    vision_modules: str = (
        r".*(visual|vision_tower|vision_model)\..*\.(qkv|proj|q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
        r"|.*(projector|connector|merger)\..*(linear_1|linear_2|proj|mlp\.0|mlp\.2)"
    )
    vision_rows_are_pictures: bool = False
    answer_token_type: int = 0


_OTHER = ModelFamily(name="other")

FAMILIES = {
    # Type 0 is the prefix, whose tokens see each other; an answer of that type would see what it is to predict.
    "paligemma": ModelFamily(name="paligemma", answer_token_type=1),
    "paddleocr_vl": ModelFamily(name="paddleocr_vl", prompt="OCR:"),
    # The prompt of the model card's examples; the space at its end is stripped by the code published with the
    # checkpoint, and a tokenizer that joins spaces to words would write it as a token of its own.
    # In transformers 5.17 the processor counts the image tokens of size (1024 px) even with crop_to_patches=False,
    # where the picture has tile_size: so crops stay on.
    "deepseek_ocr2": ModelFamily(
        name="deepseek_ocr2",
        prompt="Free OCR.",
        prompt_template="<image>\n{prompt}",
        language_modules=rf".*language_model\..*\.({_LANGUAGE_PROJECTIONS})",
        vision_rows_are_pictures=True,
        vision_modules=(rf".*vision_tower\..*\.(qkv|proj|lin1|lin2|{_LANGUAGE_PROJECTIONS})|.*multi_modal_projector.*"),
    ),
}


def family_of(model_type: str) -> ModelFamily:
    """Return the family of a config's ``model_type``; one that needs nothing of its own is ``other``."""
    return FAMILIES.get(model_type, _OTHER)
