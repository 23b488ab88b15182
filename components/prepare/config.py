"""The prepare step's interface."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from components.prepare.settings.augmentation_settings import AugmentationSettings
from components.prepare.settings.page_modes import LONGEST_SIDE, page_size
from components.prepare.settings.source_settings import SourceSettings
from components.shared.artifacts.dataset_manifest import Split
from components.shared.foreign_files.limits import ReadingLimits
from components.shared.models.model_families import LEAST_LETTER_HEIGHT
from components.shared.programs.cpu_threads import available_cpus
from components.shared.programs.step_config import Seed
from components.shared.scoring.paired_comparison import TELLING_DOCUMENTS

GrayRange = tuple[Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]]
PixelRange = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
LineRange = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
SpacingRange = tuple[Annotated[float, Field(ge=0.8, le=4)], Annotated[float, Field(ge=0.8, le=4)]]

_NOT_IN_THE_DATA = {"output_dir", "workers", "min_eval_documents"}
_LINES_OF_A_FREE_HEIGHT = (1, 4)


class PrepareConfig(SourceSettings):
    """Turn documents into labelled page images: WebDataset shards and a manifest."""

    output_dir: Path
    """folder for the dataset; it must not exist yet, or be empty"""
    more_sources: list[SourceSettings] = Field(default=[])
    """more sources, mixed with the first one by weight, e.g. [{source: images:scans, weight: 0.2}]"""
    holdout: SourceSettings | None = None
    """a separate source for the evaluation pages; nothing else is held out then"""
    eval_fraction: float = Field(0.1, ge=0, lt=1)
    """share of the documents held out for evaluation; only a document's text and the seed decide its side"""
    near_duplicate_threshold: float | None = Field(0.8, gt=0, le=1)
    """documents whose word 5-grams are at least this similar (Jaccard) count as copies; only the first is kept; null:
    only documents with the same text count as copies"""
    max_document_characters: int = Field(1_000_000, ge=1)
    """documents with more characters are dropped and counted"""
    max_uncovered_share: float = Field(0.05, ge=0, le=1)
    """stop if more than this share of the documents use a script that no font covers; up to this share, their pages are
    dropped and counted"""
    max_train_pages: int | None = Field(None, ge=1)
    """keep at most this many training pages, sampled evenly from all documents"""
    max_eval_pages: int | None = Field(None, ge=1)
    """keep at most this many evaluation pages: one page of every document before a second one of any"""
    task: Literal["ocr", "summarize"] = "ocr"
    """ocr: a document is split into pages, and a page's label is its text; summarize: one page shows the whole
    document, and its label is target_column"""
    instruction: str | None = None
    """the prompt stored with every page; null: the model family's own prompt is used"""
    instruction_in_image: bool = False
    """draw the instruction above the text"""
    label_lines: Literal["drawn", "paragraphs"] = "drawn"
    """task ocr: labels break lines where the picture does (drawn), or only at the end of a paragraph (paragraphs)"""
    reflow: bool = True
    """join the source's lines into paragraphs and wrap them to the page; false: keep the source's line breaks"""
    text_engine: Literal["auto", "pango", "pillow"] = "auto"
    """pango: all scripts and font fallback, needs the system's Pango; pillow: only what one font covers, needs nothing
    beyond pip; auto: Pango if it is installed"""
    fonts: list[str] = Field(default=["DejaVuSans.ttf"], min_length=1)
    """font files, folders, family names, names of files that matplotlib, a Python package or the system has, or
    "system" for all installed fonts; one is picked per page, the others are fallbacks for missing glyphs"""
    font_sizes: list[Annotated[int, Field(ge=4, le=400)]] = Field(default=[18, 20, 22], min_length=1)
    """font sizes in pixels; one is picked per page"""
    min_font_size: int = Field(10, ge=4)
    """task summarize: a document that does not fit is set in a smaller size, down to this one (pixels)"""
    resolutions: list[str] = Field(default=[])
    """sizes of drawn pages, one is picked per page: WIDTHxHEIGHT, or one of DeepSeek-OCR's modes (tiny, small, base,
    large, gundam, ocr2_base, ocr2_tile, ocr2_tiles); if set, page_width and page_height are ignored"""
    page_width: int = Field(420, ge=28, le=LONGEST_SIDE)
    """width of drawn pages in pixels"""
    page_height: int | None = Field(None, ge=28, le=LONGEST_SIDE)
    """height of drawn pages in pixels; null: the page is as high as its lines"""
    page_size_multiple: int = Field(28, ge=1)
    """if page_height is null, the height is rounded up to a multiple of this (the model's patch size)"""
    lines_per_page: LineRange | None = None
    """minimum and maximum lines per page; a number in this range is picked per page; null: pages with a fixed height
    are filled, pages without one get 1 to 4 lines"""
    columns: list[Annotated[int, Field(ge=1, le=6)]] = Field(default=[1], min_length=1)
    """numbers of text columns; one is picked per page; right-to-left documents start with the right column"""
    margin: PixelRange = (8, 8)
    """range of the empty border around the text in pixels; a value is picked per page"""
    line_spacing: SpacingRange = (1.25, 1.25)
    """range of the distance between baselines as a multiple of the font size; never less than the font requires"""
    ink: GrayRange = (0, 60)
    """range of grey levels of the letters; a value is picked per page"""
    paper: GrayRange = (230, 255)
    """range of grey levels of the background; a value is picked per page"""
    renderings_per_document: int = Field(1, ge=1, le=100)
    """how many times each document is drawn, each time with a different look"""
    augmentation: AugmentationSettings = AugmentationSettings()
    """effects of scanners and cameras; each one is off until it is given a range"""
    picture_longest_edge: int | None = Field(1288, ge=28, le=LONGEST_SIDE)
    """PDFs and scans: pixels of the longer side of a page; a scan is only made smaller, never larger; null: scans as
    they are, PDFs at 150 dpi. Drawn pages have resolutions, page_width"""
    min_letter_height: float | None = Field(None, ge=0)
    """PDFs and scans: pages whose letters are lower than this (pixels, estimated) stay, and are counted and named;
    null: what base_model's family can see, in a pipeline; 8 in this step alone"""
    max_picture_pixels: int = Field(64_000_000, ge=1)
    """pages of PDFs and scans with more pixels are dropped and counted"""
    max_document_seconds: float = Field(60, ge=1)
    """CPU seconds that opening one foreign document may take (a row, a scan, a PDF; a PDF gets a second more for each
    page that was read); one that takes longer counts as unreadable (on_unreadable)"""
    max_document_gib: float = Field(2, ge=0.1)
    """GiB of memory that opening one foreign document may take; one that takes more counts as unreadable
    (on_unreadable)"""
    image_format: Literal["png", "webp", "jpg"] = "png"
    """file format of the page images; jpg and webp use quality 90"""
    max_samples_per_shard: int = Field(1000, ge=1)
    """pages per tar file"""
    min_eval_documents: int = Field(TELLING_DOCUMENTS, ge=0)
    """say so in the log if fewer documents than this are held out; a pipeline takes gate.min_documents"""
    seed: Seed = 0
    """seed of splits, looks and noise: the same input, config and seed give the same bytes"""
    workers: int = Field(default_factory=available_cpus, ge=1)
    """number of worker processes; it does not change the result"""

    @model_validator(mode="after")
    def _values_fit_together(self) -> Self:
        for name in ("lines_per_page", "ink", "paper", "margin", "line_spacing"):
            bounds = getattr(self, name)
            if bounds and bounds[0] > bounds[1]:
                raise ValueError(f"{name}: the first number must not be above the second")
        for width, height in self.page_sizes():
            room = width - 2 * self.margin[1] - 2 * max(self.columns) * max(self.font_sizes)
            if room <= 0 or (height or 2**31) <= 2 * self.margin[1] + 2 * max(self.font_sizes):
                raise ValueError(f"a page of {width}x{height or 'any'} leaves no room for two letters in each column")
        lines, spacing = (self.line_limits() or (0, 0))[1], self.line_spacing[1] * max(self.font_sizes)
        if self.page_height is None and not self.resolutions and lines * spacing > LONGEST_SIDE:
            raise ValueError(f"lines_per_page: {lines} lines make a page higher than {LONGEST_SIDE} pixels")
        if self.task == "summarize" and any(source.target_column is None for source in self.sources()):
            raise ValueError("task summarize needs target_column, the field that holds the summary")
        if self.task == "summarize" and self.page_sizes()[0][1] is None:
            raise ValueError("task summarize draws one page per document: give resolutions, or page_height")
        if self.instruction_in_image and not self.instruction:
            raise ValueError("instruction_in_image: there is no instruction to draw")
        return self

    def page_sizes(self) -> list[tuple[int, int | None]]:
        """Return the possible page sizes in pixels; a height of None depends on the number of lines."""
        if self.resolutions:
            return [page_size(name) for name in self.resolutions]
        return [(self.page_width, self.page_height)]

    def line_limits(self) -> tuple[int, int] | None:
        """Return the minimum and maximum lines per page; None if pages are filled."""
        if self.lines_per_page is None and self.page_height is None and not self.resolutions:
            return _LINES_OF_A_FREE_HEIGHT
        return self.lines_per_page

    def mixed_sources(self) -> list[SourceSettings]:
        """Return the sources that are mixed by weight, in order."""
        first = SourceSettings.model_validate({name: getattr(self, name) for name in SourceSettings.model_fields})
        return [first, *self.more_sources]

    def sources(self) -> list[SourceSettings]:
        """Return all sources, the holdout last."""
        return self.mixed_sources() + ([self.holdout] if self.holdout else [])

    def least_letter_height(self) -> float:
        """Return the height in pixels below which the letters of a PDF or scan are too small."""
        return LEAST_LETTER_HEIGHT if self.min_letter_height is None else self.min_letter_height

    def page_limits(self) -> dict[Split, int | None]:
        """Return split -> maximum number of pages; None: no limit."""
        return {"train": self.max_train_pages, "eval": self.max_eval_pages}

    def reading_limits(self) -> ReadingLimits:
        """Return the limits within which one foreign document is opened."""
        return ReadingLimits(seconds=self.max_document_seconds, memory_bytes=round(self.max_document_gib * 2**30))

    def documents_first(self, split: Split) -> bool:
        """Return whether the limit of pages takes a page of every document before it takes a second one of any."""
        return split == "eval" and self.max_eval_pages is not None

    def data_settings(self) -> dict[str, Any]:
        """Return the settings that affect the shards' bytes, as JSON values."""
        return self.model_dump(mode="json", exclude=_NOT_IN_THE_DATA)
