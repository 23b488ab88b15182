"""The evaluate step's whole interface."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from components.shared.artifacts.dataset_manifest import Split
from components.shared.programs.step_config import StepConfig
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
    """name of a registered model (MLflow): the version with the alias ``champion`` reads the same pages as one more
    row; no version has it: no row"""
    output_dir: Path
    """folder to make; gets report.json, samples.parquet and report.html"""
    split: Split = "eval"
    """the dataset's split to read"""
    max_pages: int | None = Field(default=None, ge=1)
    """read at most this many pages, drawn at random with ``seed``; all of them where not given"""
    per_device_eval_batch_size: int = Field(default=32, ge=1)
    """pages per batch; halved where the device runs out of memory"""
    dataloader_num_workers: int | None = Field(default=None, ge=0)
    """threads that prepare the next batches' pictures, one batch each, while the model reads; without it, 4 where there
    is a GPU, and none on a CPU"""
    backend: Literal["standard", "unsloth"] = "standard"
    """who loads and runs the models: transformers, or Unsloth's FastVisionModel with for_inference (CUDA); with
    recorded decoding steps both wrote 1,454 tokens/s (16-bit, 8 pages), and Unsloth takes half a minute more to load"""
    max_new_tokens: int = Field(default=512, ge=1)
    """longest answer in tokens; a page that reaches it without an end counts as truncated"""
    base_size: int | None = Field(default=None, ge=1)
    """DeepSeek-OCR-2: pixels of the view of the whole page; without it, the model's own (1024)"""
    image_size: int | None = Field(default=None, ge=1)
    """DeepSeek-OCR-2: pixels of a tile, or of the one view where crop_mode is off; without it, the model's own (768)"""
    crop_mode: bool | None = None
    """DeepSeek-OCR-2: cut pages larger than a tile into tiles; without it, as the model does by itself (on)"""
    normalization: Annotated[Profile, BeforeValidator(newest_version)] = "nfkc-ws-v1"
    """what is done to label and prediction before they are compared: ``none``, ``nfc``, ``nfkc-ws`` or ``lenient``; a
    name without a version is its newest one"""
    bootstrap_resamples: int = Field(default=1000, ge=100)
    """resamples of the documents behind each 95 % interval"""
    seed: int = 0
    """seed of the bootstrap and of the choice of pages"""
    revision: str | None = None
    """commit or tag of a hub model"""
    trust_remote_code: bool = False
    """allow a hub model to run its own Python code; pin ``revision`` with it"""
    classic_ocr: bool = True
    """add a row for Tesseract where the ``tesseract`` program is installed, and one for RapidOCR where the package
    ``rapidocr`` is"""
    bertscore_model: Path | None = None
    """folder of a text encoder (transformers), e.g. a BERT: adds BERTScore with it; nothing is downloaded"""
    bertscore_layer: int | None = Field(default=None, ge=0)
    """whose hidden states are compared: 0 is the embeddings; without it, the last layer"""
    worst_pages: int = Field(default=10, ge=0)
    """how many of the worst pages the HTML report shows with picture and difference"""
