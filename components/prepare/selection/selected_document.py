"""A document that will be drawn."""

from dataclasses import dataclass

from components.prepare.sources.document import PagePicture
from components.shared.artifacts.dataset_manifest import Split


@dataclass(frozen=True)
class SelectedDocument:
    """A cleaned document that is not a copy of another one, on one side of the split.

    Attributes:
        number: its place among the selected documents, from 0.
        source_id: as the source named it.
        text: what is drawn, cleaned; paragraphs are separated by blank lines.
        original_text: the text as the source gave it; None where cleaning changed nothing.
        lang: a BCP 47 tag, ``"und"`` where unknown.
        split: ``"train"`` or ``"eval"``.
        target: task ``summarize``: the summary, cleaned.
        pictures: pages that are taken as pictures instead of being drawn, their texts cleaned.
    """

    number: int
    source_id: str
    text: str
    original_text: str | None
    lang: str
    split: Split
    target: str | None = None
    pictures: tuple[PagePicture, ...] = ()
