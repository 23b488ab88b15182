"""Fuzzes what reads foreign bytes with atheris (libFuzzer), guided by the coverage of this project's own code.

    python -m tests.hostile.fuzz tables --seconds 40

Seeds are the hostile inputs of the table. A crash is anything but a user's error or a marker with a reason; the program
then ends with another exit code than 0, and libFuzzer writes the input into the folder of findings.
"""

import argparse
import hashlib
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import atheris
from transformers import ProcessorMixin

with atheris.instrument_imports(include=["components.prepare", "components.shared", "components.export.lineage"]):
    from components.export.lineage.findings import Reach
    from components.export.lineage.integrity import check_integrity
    from components.prepare.documents.document import Document, PagePicture
    from components.prepare.documents.text_decoding import WrongEncodingError, decode_text
    from components.prepare.rendering.page_pictures import PageError, load_page
    from components.prepare.selection.candidate import SelectionSettings, examine
    from components.prepare.settings.source_settings import SourceSettings
    from components.prepare.sources.opening import read_documents
    from components.prepare.sources.pages.scan_text import ScanTextError, alto_text, hocr_text
    from components.shared.errors import UserError, without_passwords
    from components.shared.foreign_files.limits import ReadingLimits
    from components.shared.models.adapter_patterns import check_adapter_patterns
    from components.shared.models.model_loading import load_processor
    from components.shared.page_reader.pictures import opened_page
    from components.shared.page_reader.refusal import RefusalError
    from components.shared.programs.step_config import parse_config_text
    from components.shared.reading.chat_templates import rendered_prompt

from tests.hostile import pages, tables, texts
from tests.hostile.hostile_input import HostileInput

LIMITS = ReadingLimits(seconds=1, memory_bytes=300_000_000)
SELECTION = SelectionSettings(eval_fraction=0, seed=1)
TABLE_SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".tar")
ENCODINGS = ("utf-8", "cp1252", "utf-16", "iso2022_jp", "euc_jp", "gb18030")
LARGEST_SEED = 5_000
FOLDER = Path(tempfile.mkdtemp(prefix="deepsynth-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def read_file(suffix: str, content: bytes, limits: ReadingLimits | None = None) -> None:
    path = FOLDER / f"foreign{suffix}"
    path.write_bytes(content)
    try:
        for item in read_documents(SourceSettings(source=str(path), on_unreadable="skip"), limits):
            assert item.source_id.startswith(path.name)
            if isinstance(item, Document):
                examine(item, SELECTION)
    except UserError as error:
        assert "no column" in str(error), error


def fuzz_tables(data: bytes) -> None:
    """The first byte chooses the kind of file."""
    read_file(TABLE_SUFFIXES[data[0] % len(TABLE_SUFFIXES)], data[1:])


def fuzz_pdfs(data: bytes) -> None:
    """In a child with limits, which some mutations of the seeds need; so these runs are not guided by coverage."""
    read_file(".pdf", data, LIMITS)


def fuzz_scan_texts(data: bytes) -> None:
    for read in (alto_text, hocr_text):
        with suppress(ScanTextError, WrongEncodingError):
            read(data, "utf-8")


def fuzz_encodings(data: bytes) -> None:
    try:
        text = decode_text(data[1:], ENCODINGS[data[0] % len(ENCODINGS)])
    except WrongEncodingError:
        return
    examine(Document("a", text), SELECTION)


def fuzz_pictures(data: bytes) -> None:
    path = FOLDER / "foreign.png"
    path.write_bytes(data)
    with suppress(PageError):
        load_page(PagePicture(str(path), None, "text"), 512, max_pixels=1_000_000)
    with suppress(RefusalError):
        opened_page(path)


def fuzz_settings(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    without_passwords(text)
    with suppress(UserError):
        parse_config_text(text, where="config.yaml")


def fuzz_adapters(data: bytes) -> None:
    path = FOLDER / "adapter_config.json"
    path.write_bytes(data)
    with suppress(UserError):
        check_adapter_patterns(path, ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"])


def fuzz_packages(data: bytes) -> None:
    path = FOLDER / "package.zip"
    path.write_bytes(data)
    with suppress(UserError):
        check_integrity(path, Reach())


@cache
def _processor() -> ProcessorMixin:
    return load_processor("tiny-base")


def fuzz_templates(data: bytes) -> None:
    _processor().chat_template = data.decode("utf-8", "replace")
    with suppress(UserError):
        rendered_prompt(_processor(), "Read this.", where="the base")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tables": fuzz_tables,
    "pdfs": fuzz_pdfs,
    "scan_texts": fuzz_scan_texts,
    "encodings": fuzz_encodings,
    "pictures": fuzz_pictures,
    "settings": fuzz_settings,
    "adapters": fuzz_adapters,
    "packages": fuzz_packages,
    "templates": fuzz_templates,
}
ADAPTERS = (
    b'{"target_modules": "a.*", "rank_pattern": {"a": 1}, "layers_pattern": ["b"]}',
    b'{"target_modules": ["q"]}',
)


TEMPLATES = (
    b"{% for m in messages %}{{ m.role }}: {{ m.content[1]['text'] | trim }}{% if loop.last %}!{% endif %}{% endfor %}",
    b"{% macro f(x, y=2) %}{{ x * y }}{% endmacro %}{% set n = namespace(a=1) %}{% set n.a = n.a ~ 'b' %}{{ f(n.a) }}",
    b"{{ messages | tojson }}{{ strftime_now('%Y') }}{{ '%5d' | format(3) }}{{ 'a' * 9 ** 3 }}{{ raise_exception(1) }}",
    b"{% generation %}{{ messages[0]['content'] | map(attribute='type') | list }}{% endgeneration %}{% break %}",
)


def seeds(target: str) -> list[bytes]:
    """Return what the fuzzer begins with."""
    if target == "tables":
        return [bytes([TABLE_SUFFIXES.index(suffix)]) + one for suffix, one in _tables()]
    if target == "packages":
        return _packages()
    if target in ("adapters", "templates"):
        return list(ADAPTERS if target == "adapters" else TEMPLATES)
    groups: dict[str, list[HostileInput]] = {
        "pdfs": [one for one in pages.PDFS if one.kind != "work without end"],  # each of those takes a second
        "scan_texts": pages.SCANS,
        "encodings": tables.ENCODINGS,
        "pictures": pages.PICTURES,
        "settings": [*texts.SETTINGS, *texts.ADDRESSES],
    }
    return [one.made() for one in groups.get(target, [])]


def _tables() -> list[tuple[str, bytes]]:
    named = [(Path(one.name).suffix, one.made()) for one in tables.INPUTS]
    return [(suffix, content) for suffix, content in named if suffix in TABLE_SUFFIXES]


def _packages() -> list[bytes]:
    """Return small packages: one whose lineage names its file, and one with a directory, a comment and no lineage."""
    files = {"adapter_config.json": b"{}", "README.md": b"# reader"}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    digest = "0" * 64
    links = {
        "dataset": {"digest": digest, "manifest_sha256": digest, "shards": {"eval": [{"file": "a", "sha256": digest}]}},
        "base_model": {"base_model": "base", "revision": None, "with_code": False, "sha256": digest},
        "training": {"dataset_digest": digest, "on_this_dataset": True, "config": {}, "seed": 1, "steps": 1},
        "adapter": {"kind": "adapter", "sha256": digest, "files": digests, "before_packing": {"revision": None}},
        "evaluation": {"dataset_digest": digest, "rows": [], "report_sha256": digest, "samples_sha256": digest},
    }
    links["training"]["sha256"] = digest
    others = {"schema_version": 3, "name": "reader", "gate": None, "pipeline_run_id": None, "merged": None}
    lineage = json.dumps({**others, **links, "package": digests, "versions": {}}).encode()
    return [_zipped({**files, "lineage.json": lineage}), _zipped({"a/": b"", "a/b.json": b"[1]"})]


def _zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"a package"
        for name, content in files.items():
            archive.writestr(f"reader/{name}", content)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    arguments = parser.parse_args()
    arguments.findings.mkdir(parents=True, exist_ok=True)
    corpus = FOLDER / "seeds"
    corpus.mkdir()
    for number, content in enumerate(seeds(arguments.target)):
        if len(content) <= LARGEST_SEED:
            (corpus / str(number)).write_bytes(content)
    target = TARGETS[arguments.target]
    options = [f"-max_total_time={arguments.seconds}", f"-seed={arguments.seed}", "-timeout=60", "-rss_limit_mb=4096"]
    options += [f"-artifact_prefix={arguments.findings}/", "-max_len=5000", "-report_slow_units=60"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: target(data or b"\0"))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
