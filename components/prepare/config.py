"""The prepare step's interface."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from components.prepare.source_settings import SourceSettings

GrayRange = tuple[Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]]

_NOT_IN_THE_DATA = {"output_dir", "workers"}


class PrepareConfig(SourceSettings):
    """Turn documents into labelled page images: WebDataset shards and a manifest."""

    output_dir: Path
    """the folder to make; it must not exist, or be empty"""
    source: str = "python-docs"
    """python-docs (built in), a folder or a file of .txt, .md, .jsonl, .parquet or .tar (WebDataset), a pattern such
    as shards/{000..009}.tar, or a Hugging Face dataset as hf:OWNER/NAME"""
    text_column: str = "text"
    """the field of .jsonl, .parquet, .tar (.json members) and hub rows that holds the text"""
    title_column: str | None = None
    """the field that holds a title, drawn above the text"""
    source_name: str | None = None
    """hub datasets: the configuration's name"""
    source_split: str = "train"
    """hub datasets: which split is read"""
    source_revision: str | None = None
    """hub datasets: the commit, tag or branch"""
    max_documents: int | None = Field(None, ge=1)
    """read at most this many documents"""
    eval_fraction: float = Field(0.1, ge=0, lt=1)
    """share of the documents held out for evaluation; a document's side depends on its text and the seed alone"""
    max_train_pages: int | None = Field(None, ge=1)
    """keep at most this many training pages, picked evenly over all documents"""
    max_eval_pages: int | None = Field(None, ge=1)
    """likewise for the held-out pages"""
    instruction: str | None = None
    """the prompt stored with every page; without it the model family's own prompt is used"""
    reflow: bool = True
    """join the source's lines into paragraphs before they are wrapped to the page; off: keep its line ends"""
    fonts: list[str] = Field(default=["DejaVuSans.ttf"], min_length=1)
    """font files or folders, or names of font files that matplotlib carries or the machine has; one is picked per
    page, and another of them where it lacks a glyph"""
    font_sizes: list[Annotated[int, Field(ge=4, le=400)]] = Field(default=[18, 20, 22], min_length=1)
    """font sizes in pixels; one is picked per page"""
    page_width: int = Field(420, ge=28)
    """page width in pixels"""
    page_height: int | None = Field(None, ge=28)
    """page height in pixels; without it the page is as high as its lines"""
    page_size_multiple: int = Field(28, ge=1)
    """without page_height: the height is rounded up to a multiple of this, the model's patch size"""
    lines_per_page: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 4)
    """least and most lines of a page; one number of this range is picked per page"""
    margin: int = Field(8, ge=0)
    """empty border around the text, in pixels"""
    line_spacing: float = Field(1.25, ge=0.8, le=4)
    """distance of two baselines, as a multiple of the font size"""
    ink: GrayRange = (0, 60)
    """range of gray levels of the letters; one is picked per page"""
    paper: GrayRange = (230, 255)
    """range of gray levels of the background; one is picked per page"""
    noise_std: float = Field(0.0, ge=0, le=128)
    """standard deviation of Gaussian noise on every pixel, in gray levels"""
    image_format: Literal["png", "webp", "jpg"] = "png"
    """file format of the page pictures; jpg and webp are written at quality 90"""
    max_samples_per_shard: int = Field(1000, ge=1)
    """pages per tar file"""
    seed: int = 0
    """the seed of splits, looks and noise: the same input, config and seed give the same bytes"""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """processes that lay out and draw; their number does not change the result"""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        for name in ("lines_per_page", "ink", "paper"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first number must not be above the second")
        if self.page_width <= 2 * self.margin + 2 * max(self.font_sizes):
            raise ValueError("page_width leaves no room for two letters between the margins")
        return self

    def data_settings(self) -> dict[str, Any]:
        """Return the settings that shape the shards' bytes, as JSON values."""
        return self.model_dump(mode="json", exclude=_NOT_IN_THE_DATA)
