"""Where one set of documents comes from: the part of the configuration that every source reads."""

from typing import Literal

from pydantic import Field

from components.shared.programs.step_config import StepConfig


class SourceSettings(StepConfig):
    """One source of documents."""

    source: str = "python-docs"
    """python-docs (built in); a folder or a file of .txt, .md, .jsonl, .parquet, .pdf or .tar (WebDataset); a pattern
    such as shards/{000..009}.tar; a Hugging Face dataset as hf:OWNER/NAME; or a folder of scans with their texts
    beside them as images:FOLDER"""
    text_column: str = "text"
    """the field of .jsonl, .parquet, .tar (.json members) and hub rows that holds the text"""
    title_column: str | None = None
    """the field that holds a title, drawn above the text"""
    target_column: str | None = None
    """task summarize: the field that holds the summary, e.g. summary or highlights"""
    lang_column: str | None = None
    """the field that holds the text's language as a BCP 47 tag"""
    lang: str = "und"
    """the language of documents that do not say theirs, as a BCP 47 tag"""
    source_name: str | None = None
    """hub datasets: the configuration's name"""
    source_split: str = "train"
    """hub datasets: which split is read"""
    source_revision: str | None = None
    """hub datasets: the commit, tag or branch"""
    max_documents: int | None = Field(None, ge=1)
    """read at most this many documents"""
    on_unreadable: Literal["stop", "skip"] = "stop"
    """what happens at a file, row or page that is broken: stop and name it, or skip it, name it in the log and count
    it as file_unreadable"""
    weight: float | None = Field(None, gt=0)
    """with several sources: this source's part of the kept documents, relative to the other sources' weights, which
    are 1 where not given; where none has a weight all documents are kept"""
