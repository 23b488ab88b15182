"""The tiny base's character error rate against the height of the letters on the page.

    python -m tests.benchmarks.letter_heights --pages 24 --json docs/benchmarks/dataset/letter_heights.json \
        --markdown docs/benchmarks/dataset/letter_heights.md

Prepare draws the same texts, random words in random order, at each font size, with one of the fonts that the base was
trained on (Debian's fonts-liberation) and one that it never saw. A page's letter height is prepare's own estimate
(``components/shared/datasets/letter_height.py``); a row has its median over the pages. Label and reading are compared
after the evaluation's normalisation.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.prepare.config import PrepareConfig
from components.prepare.step import run
from components.shared.datasets.letter_height import letter_height
from components.shared.datasets.shard_reader import Sample, ShardDataset
from components.shared.models.model_families import FAMILIES, LEAST_LETTER_HEIGHT, family_of
from components.shared.models.model_loading import default_device, default_dtype, load_model, load_processor
from components.shared.reading.transcriber import Transcriber
from components.shared.scoring.edit_counts import character_edits
from components.shared.scoring.text_normalization import normalizer
from components.shared.tiny_base_recipe.texts import documents
from tests.benchmarks.cpu_neighbours import machine

FONT_SIZES = (8, 10, 12, 14, 16, 18, 20, 24, 28)
FONTS = ("LiberationSans-Regular.ttf", "DejaVuSans.ttf")
DEEPSEEK = FAMILIES["deepseek_ocr2"].least_letter_height
_AT_ONCE = 16


@dataclass(frozen=True)
class Row:
    """One font at one size: the median letter height in pixels, and the character error rate over all pages."""

    font: str
    font_size: int
    letter_height: float
    pages: int
    cer: float


def drawn(folder: Path, font: str, size: int, pages: int) -> list[Sample]:
    """Return pages of 3 lines."""
    source = folder / "words.jsonl"
    if not source.exists():
        texts = documents(8 * pages, seed=11, kinds=("words",))
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    output = folder / f"{font}-{size}"
    look = {"fonts": [font], "font_sizes": [size], "lines_per_page": (3, 3), "text_engine": "pillow"}
    settings = {"source": str(source), "output_dir": output, "max_train_pages": pages, "max_eval_pages": 1}
    run(PrepareConfig.model_validate({**look, **settings, "workers": 1}))
    dataset = ShardDataset(output, "train")
    return [dataset[number] for number in range(len(dataset))]


def error_rate(transcriber: Transcriber, pages: Sequence[Sample]) -> float:
    """Return the character error rate over all pages."""
    normalise = normalizer("nfkc-ws-v1")
    counts = []
    for start in range(0, len(pages), _AT_ONCE):
        batch = pages[start : start + _AT_ONCE]
        for page, read in zip(batch, transcriber.read(batch), strict=True):
            counts.append(character_edits(normalise(page.text), normalise(read.text)))
    return sum(count.edits for count in counts) / sum(count.reference_length for count in counts)


def measured(pages: int) -> list[Row]:
    """Return a row for each font and size."""
    device = default_device()
    model = load_model("tiny-base", dtype=default_dtype(device), device=device)
    transcriber = Transcriber(model, load_processor("tiny-base"), family_of(model.config.model_type), 300)
    rows = []
    with tempfile.TemporaryDirectory(prefix="letter-heights-") as folder:
        for font in FONTS:
            for size in FONT_SIZES:
                found = drawn(Path(folder), font, size, pages)
                heights = [height for page in found if (height := letter_height(page.image)) is not None]
                cer = round(error_rate(transcriber, found), 4)
                rows.append(Row(font, size, round(statistics.median(heights), 1), len(found), cer))
                print(rows[-1], flush=True)
    return rows


def page(rows: Sequence[Row], arguments: str) -> str:
    """Return the content of docs/benchmarks/dataset/letter_heights.md."""
    known = machine()
    lines = ["| font | font size | letter height | CER |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.font} | {row.font_size} px | {row.letter_height:.0f} px | {row.cer:.1%} |" for row in rows]
    table = "\n".join(lines)
    return f"""# What the tiny base reads, against the height of the letters

{table}

{rows[0].pages} pages of three lines in each row: random words in random order. LiberationSans is one of the fonts that
the base was trained on, at font sizes of 16 to 24 px; it never saw DejaVuSans. The height is prepare's estimate, the
median over the pages.

This is one small model on clean print: it says nothing about others. The limits that count pages as too small are
choices, not measurements: {LEAST_LETTER_HEIGHT:.0f} px for families without a figure of their own, the tiny base's too,
and {DEEPSEEK:.0f} px for DeepSeek-OCR, from the compression rates in its paper
(`components/shared/models/model_families.py`).

{known["processor"]}, {known["cores"]} cores, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.

    python -m tests.benchmarks.letter_heights {arguments}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=24)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--markdown", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["MLFLOW_TRACKING_URI"] = "off"
    rows = measured(arguments.pages)
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "machine": machine(),
        "rows": [asdict(row) for row in rows],
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    arguments.markdown.write_text(page(rows, " ".join(sys.argv[1:])))


if __name__ == "__main__":
    main()
