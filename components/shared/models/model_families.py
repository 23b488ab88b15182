"""Differences between families of vision-language models; all other code is the same for every family."""

import re
from dataclasses import dataclass, field
from typing import Any

LANGUAGE_MODEL = "language_model|text_model"
"""Alternatives of a regular expression: the language model's name among the modules of a model; Idefics3, SmolVLM and
Kosmos-2.5 call it ``text_model``."""
_LANGUAGE_PROJECTIONS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
_OTHER_PROJECTIONS = "gate_up_proj|qkv_proj|out_proj|fc1|fc2"  # GLM's fused MLP, Phi's attention, Kosmos-2.5's layers
LEAST_LETTER_HEIGHT = 8.0
"""Pixels below which letters are too small, for families without a figure of their own: a choice, not measured. The
tiny base needs 12 (docs/benchmarks/dataset/letter_heights.md)."""


@dataclass(frozen=True)
class ModelFamily:
    """One family's differences, found by transformers' ``model_type``.

    Attributes:
        prompt: the text that asks for a plain transcription, without the image token.
        prompt_template: for processors without a chat template: how ``{image}``, the processor's image token, and
            ``{prompt}`` are joined.
        processor_adds_image: the processor adds the image tokens; the prompt has none or a different placeholder.
        flat_images: the processor takes one list of pictures; others take a list of pictures for each text.
        image_options: keyword arguments for the processor's image part.
        language_modules: regular expression of the module names that LoRA adapts by default.
        vision_rows_are_pictures: each row of the vision encoder's input is one picture or one tile of a picture.
        has_image_settings: evaluation can choose DeepSeek's ``base_size``, ``image_size``, ``crop_mode`` and
            ``max_crops``.
        max_crops: at most so many tiles of a page by default; None for families without these settings.
        view_cells: the numbers of cells (image tokens) along a view's side that the model knows; empty for any.
        answer_token_type: the value of ``token_type_ids`` for the answer's tokens.
        no_repeat_ngram: the authors' own rule against loops in single pictures: the length of a sequence that may not
            occur twice, and of the window, in tokens; None where they publish none.
        no_repeat_ngram_pdf: the same for the pages of a PDF.
        no_repeat_allowed: tokens that this rule never rules out.
        least_letter_height: pixels; on pages with lower letters, the model cannot be expected to read them.
    """

    name: str
    prompt: str = "Transcribe the text in this image."
    prompt_template: str = "{image}\n{prompt}"
    processor_adds_image: bool = False
    flat_images: bool = False
    image_options: dict[str, Any] = field(default_factory=dict)
    language_modules: str = rf".*({LANGUAGE_MODEL})\..*\.({_LANGUAGE_PROJECTIONS}|{_OTHER_PROJECTIONS})"
    vision_rows_are_pictures: bool = False
    answer_token_type: int = 0
    has_image_settings: bool = False
    max_crops: int | None = None
    view_cells: tuple[int, ...] = ()
    least_letter_height: float = LEAST_LETTER_HEIGHT
    no_repeat_ngram: tuple[int, int] | None = None
    no_repeat_ngram_pdf: tuple[int, int] | None = None
    no_repeat_allowed: tuple[str, ...] = ("<td>", "</td>")


_GOT_PROMPT = (
    "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail.<|im_end|>"
    "<|im_start|>user\n<img>{image}</img>\n{prompt}<|im_end|><|im_start|>assistant\n"
)
"""The prompt that transformers' GotOcr2Processor writes if it gets no text."""

# DeepSeek-OCR's paper (arXiv 2510.18234): 97 % precision with 10 text tokens to a vision token, 60 % with 20. A vision
# token covers 64x64 pixels, a text token about 4 letters of half an em in lines of 1.2 em: 10 to a vision token are set
# in 13 pixels, whose letters are 10 high.
_DEEPSEEK_LETTER_HEIGHT = 10.0
_FIRST_DEEPSEEK_OCR = ModelFamily(
    name="deepseek_vl_v2",
    prompt="Free OCR.",
    flat_images=True,
    language_modules=rf".*language_model\..*\.({_LANGUAGE_PROJECTIONS})",
    vision_rows_are_pictures=True,
    has_image_settings=True,
    max_crops=9,  # dynamic_preprocess in the checkpoint's modeling_deepseekocr.py; the authors' own vLLM code takes 6
    least_letter_height=_DEEPSEEK_LETTER_HEIGHT,
    # run_dpsk_ocr_image.py and run_dpsk_ocr_pdf.py of github.com/deepseek-ai/DeepSeek-OCR.
    no_repeat_ngram=(30, 90),
    no_repeat_ngram_pdf=(20, 50),
)

FAMILIES = {
    # Type 0 is the prefix, whose tokens attend to each other; an answer of type 0 could see the tokens to predict.
    "paligemma": ModelFamily(name="paligemma", answer_token_type=1),
    "paddleocr_vl": ModelFamily(name="paddleocr_vl", prompt="OCR:", flat_images=True),
    "got_ocr2": ModelFamily(name="got_ocr2", prompt="OCR: ", prompt_template=_GOT_PROMPT, flat_images=True),
    "qianfan_ocr": ModelFamily(name="qianfan_ocr", processor_adds_image=True, flat_images=True),
    "pp_chart2table": ModelFamily(name="pp_chart2table", flat_images=True),
    "kosmos-2.5": ModelFamily(
        name="kosmos-2.5", prompt="<ocr>", prompt_template="{prompt}", processor_adds_image=True, flat_images=True
    ),
    # The prompt of the model card's examples without its final space: the code published with the checkpoint strips
    # it too, and a tokenizer that joins spaces to words would make it a separate token.
    # In transformers 5.17 the processor counts the image tokens for size (1024 px) even with crop_to_patches=False,
    # although the picture then has tile_size: so crops stay on.
    "deepseek_ocr2": ModelFamily(
        name="deepseek_ocr2",
        prompt="Free OCR.",
        flat_images=True,
        language_modules=rf".*language_model\..*\.({_LANGUAGE_PROJECTIONS})",
        vision_rows_are_pictures=True,
        has_image_settings=True,
        max_crops=6,
        view_cells=(12, 16),
        least_letter_height=_DEEPSEEK_LETTER_HEIGHT,
        # run_dpsk_ocr2_image.py and run_dpsk_ocr2_pdf.py of github.com/deepseek-ai/DeepSeek-OCR-2.
        no_repeat_ngram=(20, 90),
        no_repeat_ngram_pdf=(20, 50),
    ),
    "deepseek_vl_v2": _FIRST_DEEPSEEK_OCR,
    "DeepseekOCR": _FIRST_DEEPSEEK_OCR,  # as the published code's save_pretrained calls it
}


def family_of(model_type: str) -> ModelFamily:
    """Return the family of a config's ``model_type``; a type without an entry gets the defaults."""
    return FAMILIES.get(model_type) or ModelFamily(name=model_type)


def in_language_model(name: str) -> bool:
    """Return whether the module or weight with this full name belongs to the language model.

    >>> in_language_model("model.text_model.layers.0.mlp.up_proj"), in_language_model("model.visual.blocks.0.attn.proj")
    (True, False)
    """
    return re.search(rf"(^|\.)({LANGUAGE_MODEL})\.", name) is not None
