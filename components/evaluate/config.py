"""The evaluate step's whole interface."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from components.shared.artifacts.dataset_manifest import Split
from components.shared.programs.reading_settings import tiles_need_crop_mode, window_needs_a_size
from components.shared.programs.step_config import Seed, StepConfig
from components.shared.scoring.text_normalization import Profile, newest_version


class EvaluateConfig(StepConfig):
    """Transcribe held-out pages with the base model and the adapter, score both, and write a report."""

    dataset_dir: Path
    """folder made by the prepare step"""
    base_model: str = "tiny-base"
    """folder, hub id, or ``tiny-base`` for the bundled model"""
    adapter_dir: Path | None = None
    """folder made by the train step: a PEFT adapter, or a whole model after full fine-tuning"""
    champion: str | None = None
    """name of a registered model (MLflow): its version with the alias ``champion`` reads the same pages and gets a row
    of its own; no row if no version has the alias"""
    output_dir: Path
    """folder to create, for report.json, samples.parquet and report.html"""
    split: Split = "eval"
    """the dataset's split to read"""
    max_pages: int | None = Field(default=None, ge=1)
    """read at most this many pages, drawn at random with ``seed``, one of every document before a second one of any;
    all of them where not given"""
    per_device_eval_batch_size: int = Field(default=32, ge=1)
    """pages per batch; halved where the device runs out of memory"""
    dataloader_num_workers: int | None = Field(default=None, ge=0)
    """threads that prepare the pictures of the next batches, one batch each, while the model reads; by default 4 with a
    GPU and none on a CPU"""
    backend: Literal["standard", "unsloth"] = "standard"
    """the library that loads and runs the models: transformers, or Unsloth's FastVisionModel with for_inference (CUDA);
    with recorded decoding steps both wrote 1,454 tokens/s (16-bit, 8 pages), and Unsloth loads half a minute longer"""
    max_new_tokens: int = Field(default=512, ge=1)
    """longest answer in tokens; a page that reaches it without an end token counts as truncated"""
    no_repeat_ngram_size: Annotated[int, Field(ge=2)] | Literal["family", "family-pdf"] | None = None
    """an answer repeats no sequence of this many tokens; ``family`` for the numbers with which the model's authors read
    single pictures (DeepSeek-OCR-2: 20 within 90), ``family-pdf`` for those of a PDF's pages (20 within 50); off where
    not given. Base, adapter and champion, and then the package, read alike"""
    no_repeat_ngram_window: int | None = Field(default=None, ge=2)
    """how many of an answer's last tokens no_repeat_ngram_size looks at; by default all"""
    base_size: int | None = Field(default=None, ge=1)
    """DeepSeek-OCR models: pixels of the whole-page view; by default the model's own (1024)"""
    image_size: int | None = Field(default=None, ge=1)
    """DeepSeek-OCR models: pixels of a tile, or of the only view if crop_mode is off; by default the model's own (640,
    OCR-2 768)"""
    crop_mode: bool | None = None
    """DeepSeek-OCR models: cut pages larger than a tile into tiles; by default as the model does (on)"""
    max_crops: int | None = Field(default=None, ge=2, le=9)
    """DeepSeek-OCR models: at most so many tiles of a page; by default the model's own (9, OCR-2 6). vLLM cuts at most
    6"""
    normalization: Annotated[Profile, BeforeValidator(newest_version)] = "nfkc-ws-v1"
    """how label and prediction are normalised before they are compared: ``none``, ``nfc``, ``nfkc-ws`` or ``lenient``;
    a name without a version means the newest one"""
    bootstrap_resamples: int = Field(default=1000, ge=100)
    """bootstrap resamples of the documents for each 95 % interval"""
    seed: Seed = 0
    """seed of the bootstrap and of the sample of pages"""
    revision: str | None = None
    """commit or tag of a hub model"""
    trust_remote_code: bool = False
    """allow a hub model to run its own Python code; pin ``revision`` with it"""
    classic_ocr: bool = True
    """add a row for Tesseract if the ``tesseract`` program is installed, and one for RapidOCR if the package
    ``rapidocr`` is"""
    bertscore_model: Path | None = None
    """folder of a text encoder (transformers), e.g. a BERT: adds BERTScore with it; nothing is downloaded"""
    bertscore_layer: int | None = Field(default=None, ge=0)
    """layer whose hidden states are compared; 0 is the embeddings; by default the last layer"""
    worst_pages: int = Field(default=10, ge=0)
    """how many of the worst pages the HTML report shows, with picture and differences"""

    _window_needs_a_size = model_validator(mode="after")(window_needs_a_size)
    _tiles_need_crop_mode = model_validator(mode="after")(tiles_need_crop_mode)

    @model_validator(mode="after")
    def _layer_needs_a_model(self) -> Self:
        if self.bertscore_layer is not None and self.bertscore_model is None:
            raise ValueError("bertscore_layer needs bertscore_model")
        return self
