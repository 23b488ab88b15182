"""Reads pages drawn by prepare with Tesseract and compares them with their labels: character error rate per script.

    python -m tests.benchmarks.read_back --renderings 6 --json docs/benchmarks/dataset/read_back.json

The samples are articles of the Universal Declaration of Human Rights and lines that mix scripts. The prepare step draws
each of them several times, at 24, 28 or 32 pixels. Label and reading are compared after NFKC, with each run of white
space as one space and without joiners and direction marks; for scripts without spaces, without white space. This needs
the Debian packages in images/debian-packages.txt and images/debian-packages-test.txt; languages whose data are missing
are reported as not read.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from components.prepare.config import PrepareConfig
from components.prepare.step import run
from components.shared.datasets.shard_reader import Sample, ShardDataset
from components.shared.errors import UserError
from components.shared.scoring.text_normalization import normalizer
from tests.fixtures.script_samples import SAMPLES, ScriptSample

FONT_SIZES = [24, 28, 32]
PAGE_WIDTH = 1024
_DEJAVU = "DejaVuSans.ttf"
_CJK = "WenQuanYi Micro Hei"
FONTS = {
    "Latn": [_DEJAVU],
    "Cyrl": [_DEJAVU],
    "Grek": [_DEJAVU],
    "Arab": [_DEJAVU],
    "Hebr": [_DEJAVU],
    "Deva": ["Noto Sans Devanagari", _DEJAVU],
    "Taml": ["Noto Sans Tamil", _DEJAVU],
    "Thai": ["Noto Sans Thai", _DEJAVU],
    "Hani": [_CJK],
    "Jpan": [_CJK],
    "Hang": [_CJK],
}


@dataclass(frozen=True)
class Reading:
    """The result of reading one sample's pages.

    Attributes:
        pages, characters: how many were compared; 0 if nothing was read.
        errors: edits between labels and readings (Levenshtein).
        not_read: the reason if nothing was read.
    """

    sample: str
    script: str
    tesseract: str
    engine: str
    pages: int = 0
    characters: int = 0
    errors: int = 0
    not_read: str | None = None

    @property
    def error_rate(self) -> float:
        return self.errors / self.characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renderings", type=int, default=6, help="pages per sample, each in another look")
    parser.add_argument("--engines", nargs="+", default=["pango", "pillow"], choices=["pango", "pillow"])
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args()
    os.environ["MLFLOW_TRACKING_URI"] = "off"
    readings, engines = [], {}
    for engine in arguments.engines:
        for fonts, samples in by_fonts().items():
            found, name = read_samples(samples, list(fonts), engine, arguments.renderings)
            readings += found
            engines[engine] = name or engines.get(engine)
    print(table(readings))
    if arguments.json:
        figures = {
            "versions": {"tesseract": tesseract_version(), "python": platform.python_version(), **engines},
            "renderings": arguments.renderings,
            "font_sizes": FONT_SIZES,
            "fonts": FONTS,
            "readings": [asdict(reading) for reading in readings],
        }
        arguments.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def by_fonts() -> dict[tuple[str, ...], list[ScriptSample]]:
    """Return the samples grouped by the fonts that draw them."""
    groups: dict[tuple[str, ...], list[ScriptSample]] = defaultdict(list)
    for sample in SAMPLES:
        groups[tuple(FONTS[sample.script])].append(sample)
    return groups


def read_samples(
    samples: Sequence[ScriptSample], fonts: list[str], engine: str, renderings: int
) -> tuple[list[Reading], str | None]:
    """Draw, read and compare samples; return the readings and the engine's name, None if it drew nothing."""
    readable, readings = [], []
    installed = installed_languages()
    for sample in samples:
        missing = [name for name in sample.tesseract.split("+") if name not in installed]
        if missing:
            readings.append(_not_read(sample, engine, f"Tesseract's data are not installed: {' '.join(missing)}"))
        else:
            readable.append(sample)
    if not readable:
        return readings, None
    with tempfile.TemporaryDirectory() as folder:
        try:
            name = draw(readable, fonts, engine, renderings, Path(folder))
        except UserError as error:
            return readings + [_not_read(sample, engine, error.problem) for sample in readable], None
        pages = ShardDataset(Path(folder) / "pages", "train")
        drawn = [pages[index] for index in range(len(pages))]
        for place, sample in enumerate(readable):
            of_sample = [page for page in drawn if page.metadata["source_id"].endswith(f":{place + 1}")]
            readings.append(compare(sample, of_sample, engine))
    return readings, name


def draw(samples: Sequence[ScriptSample], fonts: list[str], engine: str, renderings: int, folder: Path) -> str:
    """Make a dataset of the samples in ``folder / "pages"`` and return the engine's name."""
    source = folder / "samples.jsonl"
    rows = [json.dumps({"text": sample.text, "lang": sample.lang}) for sample in samples]
    source.write_text("\n".join(rows) + "\n", encoding="utf-8")
    manifest = run(
        PrepareConfig(
            output_dir=folder / "pages",
            source=str(source),
            lang_column="lang",
            eval_fraction=0,
            text_engine=engine,
            fonts=fonts,
            font_sizes=FONT_SIZES,
            page_width=PAGE_WIDTH,
            lines_per_page=(60, 60),
            margin=(24, 24),
            ink=(0, 40),
            paper=(240, 255),
            renderings_per_document=renderings,
            workers=1,
        )
    )
    return manifest.layout_engine


def compare(sample: ScriptSample, pages: Sequence[Sample], engine: str) -> Reading:
    """Read the pages of one sample and count the edits to their labels."""
    if not pages:
        return _not_read(sample, engine, "this engine refuses to draw it")
    characters = errors = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        texts = pool.map(lambda page: read(page.image_bytes, sample.tesseract), pages)
        for page, text in zip(pages, texts, strict=True):
            label, seen = normalized(page.text, sample), normalized(text, sample)
            characters += len(label)
            errors += Levenshtein.distance(label, seen)
    return Reading(sample.name, sample.script, sample.tesseract, engine, len(pages), characters, errors)


def read(image: bytes, languages: str) -> str:
    """Return the text that Tesseract reads on a page with one block of text."""
    command = ["tesseract", "-", "-", "-l", languages, "--psm", "6"]
    one_thread = os.environ | {"OMP_THREAD_LIMIT": "1"}
    return subprocess.run(command, input=image, capture_output=True, check=True, env=one_thread).stdout.decode()


def normalized(text: str, sample: ScriptSample) -> str:
    visible = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    folded = normalizer("nfkc-ws-v1")(visible)
    return folded if sample.words_by_spaces else folded.replace(" ", "")


def table(readings: Sequence[Reading]) -> str:
    """Return the readings as a Markdown table."""
    return "\n".join(
        ["| sample | data | engine | pages | characters | CER |", "|---|---|---|---|---|---|", *_rows(readings)]
    )


def _rows(readings: Sequence[Reading]) -> Iterator[str]:
    order = [sample.name for sample in SAMPLES]
    for reading in sorted(readings, key=lambda reading: (order.index(reading.sample), reading.engine)):
        rate = reading.not_read or f"{100 * reading.error_rate:.2f} %"
        counts = f"{reading.pages} | {reading.characters}"
        yield f"| {reading.sample} | {reading.tesseract} | {reading.engine} | {counts} | {rate} |"


def installed_languages() -> set[str]:
    try:
        answer = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        return set()
    return set(answer.stdout.split("\n")[1:]) - {""}


def tesseract_version() -> str | None:
    try:
        answer = subprocess.run(["tesseract", "--version"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        return None
    return (answer.stdout or answer.stderr).splitlines()[0]


def _not_read(sample: ScriptSample, engine: str, why: str) -> Reading:
    return Reading(sample.name, sample.script, sample.tesseract, engine, not_read=why)


if __name__ == "__main__":
    main()
