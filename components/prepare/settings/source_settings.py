"""The settings of one source of documents."""

import codecs
from typing import Literal

from pydantic import Field, field_validator

from components.shared.programs.step_config import StepConfig


class SourceSettings(StepConfig):
    """One source of documents."""

    source: str = "python-docs"
    """python-docs (built in); a folder or a file: .txt, .md, .jsonl, .csv, .tsv, .parquet, .pdf or .tar (WebDataset); a
    folder written by datasets.save_to_disk; a pattern
    such as shards/{000..009}.tar; a Hugging Face dataset as hf:OWNER/NAME; or images:FOLDER, a folder of scans
    with their text files beside them or in a metadata file (imagefolder)"""
    text_column: str = "text"
    """the field that holds the text, in .jsonl, .csv, .parquet, .tar (.json members) and hub rows"""
    title_column: str | None = None
    """the field that holds a title, drawn above the text"""
    target_column: str | None = None
    """task summarize: the field that holds the summary, e.g. summary or highlights"""
    lang_column: str | None = None
    """the field that holds the text's language as a BCP 47 tag"""
    lang: str = "und"
    """the language of documents that do not name theirs, as a BCP 47 tag"""
    source_name: str | None = None
    """hub datasets: name of the configuration"""
    source_split: str = "train"
    """hub datasets: split to read"""
    source_revision: str | None = None
    """hub datasets: commit, tag or branch"""
    keep_invisible_text: bool = False
    """PDFs: take an invisible text layer, such as the OCR of a scan, as label; false: leave it out, count its words"""
    encoding: str = "utf-8"
    """encoding of text files (.txt, .md, .csv, .tsv, .jsonl, texts in .tar and beside scans); a text in another one is
    left out, named with the encoding that it probably has, and counted"""
    max_documents: int | None = Field(None, ge=1)
    """read at most this many documents"""
    on_unreadable: Literal["stop", "skip"] = "stop"
    """a broken file, row or page: stop and name it, or skip it, name it in the log and count it"""
    weight: float | None = Field(None, gt=0)
    """with several sources: this source's share of the kept documents, relative to the other weights (default 1); if no
    source has a weight, all documents are kept"""

    @field_validator("encoding")
    @classmethod
    def _python_knows_the_encoding(cls, name: str) -> str:
        try:
            codecs.lookup(name)
            b"a".decode(name, "replace").encode("utf-8", "replace")
        except (LookupError, AttributeError, ValueError) as error:
            raise ValueError(f"{name!r} is not a text encoding that Python has, such as utf-8 or cp1252") from error
        return name
