"""Prompts and pages as the model's inputs, with the published layout of image tokens."""

import math
from typing import Any

from transformers import AutoTokenizer, BatchFeature, ProcessorMixin

from .image_processing import DeepseekOcrImageProcessor


class DeepseekVLV2Processor(ProcessorMixin):
    """The processor, under the name in the published ``processor_config.json``; that file has no image processor.

    ``patch_size`` (pixels) and ``downsample_ratio`` are the vision part's: a token covers their product, squared.
    The begin-of-text token comes before a prompt, as in the published code, whatever the tokenizer adds by itself.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: Any = None,
        patch_size: int = 16,
        downsample_ratio: int = 4,
        image_token: str = "<image>",
    ) -> None:
        self.image_token = image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.patch_size = patch_size
        self.downsample_ratio = downsample_ratio
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        settings = (processor_dict or {}).get("image_processor") or {}
        pictures = DeepseekOcrImageProcessor(
            **{name: value for name, value in settings.items() if name != "image_processor_type"}
        )
        return [pictures, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)]

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Return ``input_ids`` and ``attention_mask`` of ``text`` with its image tokens, and the pages' views.

        Options of the image processor and of the tokenizer may be given together.

        Raises:
            ValueError: no pages, no text, or not one page for each image token in the texts.
        """
        if images is None or text is None:
            raise ValueError("DeepSeek-OCR's processor needs images and text, such as '<image>\\nFree OCR.'")
        texts = [text] if isinstance(text, str) else list(text)
        tensors = kwargs.pop("return_tensors", None)
        names = DeepseekOcrImageProcessor.valid_kwargs.__annotations__.keys() & kwargs.keys()
        options = {name: kwargs.pop(name) for name in names}
        pictures = self.image_processor(images, return_tensors=tensors, **options)
        grids = [(int(columns), int(rows)) for columns, rows in pictures["images_spatial_crop"]]
        if sum(one.count(self.image_token) for one in texts) != len(grids):
            raise ValueError(f"{len(grids)} pages for texts with another number of {self.image_token}")
        view = options.get("size", self.image_processor.size)["height"]
        tile = options.get("tile_size", self.image_processor.tile_size)
        counts = iter([self.image_tokens(grid, view, tile) for grid in grids])
        begin = self.tokenizer.bos_token or ""
        whole = []
        for one in texts:
            first, *others = one.removeprefix(begin).split(self.image_token)
            whole.append(begin + first + "".join(self.image_token * next(counts) + other for other in others))
        kwargs["add_special_tokens"] = False
        return BatchFeature({**self.tokenizer(whole, return_tensors=tensors, **kwargs), **pictures})

    def image_tokens(self, grid: tuple[int, int], view: int, tile: int) -> int:
        """Return a page's image tokens: of its view and its ``grid`` of tiles, line ends, and the page's end.

        ``grid`` has the tiles' columns and rows; ``view`` and ``tile`` are their sides in pixels.
        """
        columns, rows = grid
        of_view, of_tile = self._side(view), self._side(tile)
        tiles = (of_tile * columns + 1) * of_tile * rows if columns * rows > 1 else 0
        return tiles + (of_view + 1) * of_view + 1

    def _side(self, pixels: int) -> int:
        return math.ceil(pixels // self.patch_size / self.downsample_ratio)
