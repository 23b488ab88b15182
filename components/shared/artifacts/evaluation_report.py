"""``report.json``: what the evaluate step measured, with which models, on which pages."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from components.shared.artifacts.confidence_calibration import ConfidenceCalibration
from components.shared.artifacts.dataset_manifest import Split
from components.shared.artifacts.step_file import FileContent, StepFile
from components.shared.scoring.paired_comparison import Interval, PairedComparison
from components.shared.scoring.sign_test import SignTest
from components.shared.scoring.text_normalization import Profile

RowName = Literal["base", "adapter", "champion", "tesseract", "rapidocr"]
"""A row of the report: who read the pages."""
Trait = Literal["source", "folder", "lang", "script", "task", "font", "resolution"]
"""A property of a page by which the figures are broken down."""
TrainingDocuments = Literal[
    "none among these pages",
    "not checked: no shards of the train split",
    "not checked: trained on another dataset",
    "not checked: no training.json says on what",
    "these are the pages",
]
"""Whether documents of the evaluated pages were trained on."""
CANDIDATE: Literal["adapter"] = "adapter"
"""The row that every other row is compared with."""


class EvaluatedDataset(FileContent):
    """The pages that were read."""

    digest: str
    source_digest: str
    split: Split
    pages: int
    pages_in_split: int
    training_documents: TrainingDocuments
    """whether the dataset's train split shares documents with these pages"""


class BaseReader(FileContent):
    """The base model."""

    base_model: str
    revision: str | None


class AdapterReader(FileContent):
    """The model under test: a PEFT adapter, or a whole fine-tuned model."""

    kind: Literal["adapter", "model"]
    sha256: str
    training_documents: TrainingDocuments


class ChampionReader(AdapterReader):
    """The registered version that has the alias ``champion``."""

    registered_model: str
    version: int


class EngineReader(FileContent):
    """A classic OCR engine."""

    version: str


class Readers(FileContent):
    """What each row was read with; None where the report has no such row."""

    base: BaseReader
    adapter: AdapterReader | None = None
    champion: ChampionReader | None = None
    tesseract: EngineReader | None = None
    rapidocr: EngineReader | None = None

    def fine_tuned(self) -> dict[str, AdapterReader]:
        """Return the adapter and the champion, as far as they are there, by their rows' names."""
        found = {"adapter": self.adapter, "champion": self.champion}
        return {name: reader for name, reader in found.items() if reader is not None}


class ReadingSettings(FileContent):
    """How base, adapter and champion read the pages; export gives the package the same settings.

    With ``no_repeat_ngram_size``, no sequence of so many tokens occurs twice in an answer's last
    ``no_repeat_ngram_window`` tokens (None: in the whole answer). ``base_size``, ``image_size`` (pixels),
    ``crop_mode`` and ``max_crops`` are DeepSeek's; None leaves them to the model. ``image_backend`` is what scaled the
    pictures, ``torchvision`` or ``pil``; None: an older report, or a processor that does not say it.
    """

    max_new_tokens: int
    no_repeat_ngram_size: int | None = None
    no_repeat_ngram_window: int | None = None
    base_size: int | None = None
    image_size: int | None = None
    crop_mode: bool | None = None
    max_crops: int | None = None
    image_backend: str | None = None

    def decoding(self) -> str:
        """Return how the next token is chosen, in words.

        >>> ReadingSettings(max_new_tokens=512).decoding()
        'greedy search'
        >>> ReadingSettings(max_new_tokens=512, no_repeat_ngram_size=20, no_repeat_ngram_window=90).decoding()
        'greedy search without repeating 20 tokens in a row within the last 90'
        """
        if self.no_repeat_ngram_size is None:
            return "greedy search"
        window = self.no_repeat_ngram_window
        within = f"within the last {window}" if window else "anywhere in an answer"
        return f"greedy search without repeating {self.no_repeat_ngram_size} tokens in a row {within}"


class ReportRow(FileContent):
    """One row of the report; rates are 0 to 1 (CER and WER can exceed 1), BLEU and chrF 0 to 100, times in seconds.

    Intervals are 95 % bootstrap intervals over documents, None with fewer than two documents. BERTScore is None
    unless it was asked for.
    """

    name: RowName
    pages: int
    documents: int
    cer: float
    cer_interval: Interval | None
    wer: float
    wer_interval: Interval | None
    rouge1: float
    rouge2: float
    rougeL: float  # noqa: N815 (rouge_score's own name)
    rougeL_interval: Interval | None  # noqa: N815
    bleu: float
    chrf: float
    bertscore: float | None
    bertscore_interval: Interval | None
    cer_median: float
    cer_p90: float
    exact_page_rate: float
    failure_rate: float
    loop_rate: float
    truncation_rate: float
    pages_per_second: float
    seconds: float
    batch_size: int
    memory_halvings: int
    notes: list[str]

    def figures(self) -> dict[str, float]:
        """Return the numbers, without intervals and without those that were not measured."""
        values = self.model_dump()
        return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


class RowComparison(FileContent):
    """The adapter (the candidate) against another row (the reference), over the same pages."""

    against: RowName
    cer: PairedComparison
    """the difference is CER(against) - CER(adapter): positive means that the adapter is better"""
    sign_test: SignTest


class BreakdownFigures(FileContent):
    """One model's figures on the pages that share a value; CER and WER are None where their labels hold no text."""

    cer: float | None
    cer_interval: Interval | None
    wer: float | None
    wer_interval: Interval | None
    exact_page_rate: float
    loop_rate: float
    failure_rate: float


class BreakdownValue(FileContent):
    """The pages that share a value of a trait, such as a language or a font."""

    value: str
    pages: int
    documents: int
    models: dict[RowName, BreakdownFigures]


class EvaluationReport(StepFile):
    """The evaluation's figures, what they mean, and what they were measured on."""

    FILE: ClassVar[str] = "report.json"
    MADE_BY: ClassVar[str] = "evaluate"

    schema_version: Literal[2] = 2
    created_at: datetime
    """when the report was written, in UTC"""
    pipeline_run_id: str | None
    """the pipeline run that the step belonged to; None for a step that ran alone"""
    normalization: Profile
    """the profile that label and prediction were normalised with before they were compared"""
    dataset: EvaluatedDataset
    models: Readers
    versions: dict[str, str]
    """the software that measured"""
    device: str
    dtype: str
    reading: ReadingSettings
    config: dict[str, Any]
    """all settings of the evaluate step, without the paths of its machine"""
    rows: list[ReportRow]
    comparisons: list[RowComparison]
    """the adapter against every other row; empty without an adapter"""
    breakdowns: dict[Trait, list[BreakdownValue]]
    calibration: ConfidenceCalibration | None = None
    """of the adapter's confidence, or of the base's where there is no adapter; None where it could not be measured"""
    calibration_note: str = "not measured"
    """what the calibration was measured on, or why there is none"""
    line_calibration: ConfidenceCalibration | None = None
    """of the lines of the same model's answers"""
    line_calibration_note: str = "not measured"
    """what the lines' calibration was measured on, or why there is none"""
    definitions: dict[str, str]
    """what each figure means"""

    def row(self, name: str) -> ReportRow | None:
        """Return the row of a model, or None where the report has none."""
        return next((row for row in self.rows if row.name == name), None)

    def comparison(self, against: str) -> RowComparison | None:
        """Return the comparison of the adapter with the row ``against``, or None where the report has none."""
        return next((entry for entry in self.comparisons if entry.against == against), None)
