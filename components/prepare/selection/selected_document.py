"""A selected document."""

from dataclasses import dataclass

from components.prepare.documents.document import PagePicture
from components.shared.artifacts.dataset_manifest import Split


@dataclass(frozen=True)
class SelectedDocument:
    """A cleaned document that is not a copy of another one and belongs to one side of the split.

    Attributes:
        number: its position among the selected documents, from 0.
        source_id: as the source named it.
        text: the cleaned text to draw; paragraphs are separated by blank lines.
        original_text: the text as the source gave it; None if cleaning changed nothing.
        lang: a BCP 47 tag; ``"und"`` if unknown.
        split: ``"train"`` or ``"eval"``.
        target: task ``summarize``: the cleaned summary.
        pictures: pages that are taken as pictures instead of being drawn; their texts are cleaned.
    """

    number: int
    source_id: str
    text: str
    original_text: str | None
    lang: str
    split: Split
    target: str | None = None
    pictures: tuple[PagePicture, ...] = ()
