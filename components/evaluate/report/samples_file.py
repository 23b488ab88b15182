"""``samples.parquet``: every prediction of every model with its counts, one row per page and model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.evaluate.scoring.scores import ModelScores

SAMPLES_FILE = "samples.parquet"
SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("key", pa.string()),
        ("source_id", pa.string()),
        ("page", pa.int64()),
        ("text", pa.string()),
        ("prediction", pa.string()),
        ("cer", pa.float64()),
        ("wer", pa.float64()),
        ("rougeL", pa.float64()),
        ("bertscore", pa.float64()),
        ("edits", pa.int64()),
        ("reference_length", pa.int64()),
        ("word_edits", pa.int64()),
        ("reference_words", pa.int64()),
        ("loop", pa.bool_()),
        ("truncated", pa.bool_()),
        ("error", pa.string()),
        ("seconds", pa.float64()),
    ]
)


def write_samples(path: Path, models: Sequence[ModelScores], normalization: str) -> None:
    """Write all page scores: texts as labelled and as predicted, counts over the normalised texts.

    The file's metadata name the normalisation.
    """
    rows = [row for scores in models for row in _rows(scores)]
    schema = SCHEMA.with_metadata({"normalization": normalization})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def _rows(scores: ModelScores) -> Iterator[dict[str, Any]]:
    for page in scores.pages:
        yield {
            "model": scores.name,
            "key": page.label.key,
            "source_id": page.label.source_id,
            "page": page.label.page,
            "text": page.label.text,
            "prediction": page.prediction.text,
            "cer": page.characters.rate,
            "wer": page.words.rate,
            "rougeL": page.rouge["rougeL"],
            "bertscore": page.bertscore,
            "edits": page.characters.edits,
            "reference_length": page.characters.reference_length,
            "word_edits": page.words.edits,
            "reference_words": page.words.reference_length,
            "loop": page.loop,
            "truncated": page.prediction.truncated,
            "error": page.prediction.error,
            "seconds": page.prediction.seconds,
        }
