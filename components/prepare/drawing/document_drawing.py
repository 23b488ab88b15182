"""Draws documents in worker processes; each writes pages to its own file and returns only where they are."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from components.prepare.config import PrepareConfig
from components.prepare.documents.drop_reasons import DropReason
from components.prepare.drawing.reference_pages import pixel_variant
from components.prepare.output.merged_pages import PageKey
from components.prepare.output.page_spool import PageFile, StoredPage
from components.prepare.rendering.document_renderer import DocumentRenderer
from components.prepare.rendering.rendered_document import FailedPage
from components.prepare.selection.selected_document import SelectedDocument
from components.prepare.typesetting.fonts import FontFace
from components.prepare.workers.memory_reuse import keep_freed_memory
from components.prepare.workers.worker_pool import WorkerPool
from components.shared.artifacts.dataset_manifest import Split
from components.shared.errors import UserError

_DOCUMENTS_PER_TASK = 16


@dataclass(frozen=True)
class Drawing:
    """What all documents of one drawing share.

    Attributes:
        folder: the page files are written there.
        variant: the ``pixel_variant`` of the process that started the drawing; all of its processes must have it.
    """

    config: PrepareConfig
    faces: list[FontFace]
    folder: Path
    variant: str


@dataclass(frozen=True)
class DrawnPage:
    """One drawn page; ``order``, ``rank`` and ``letter_height`` are those of the ``RenderedPage``."""

    order: int
    rank: int
    letter_height: float | None
    stored: StoredPage


@dataclass(frozen=True)
class DrawnDocument:
    """The result for one document.

    Attributes:
        number, name, split: those of the document.
        pages: the drawn pages.
        attempted: number of pages that it was split into, drawn or not.
        dropped: reason -> count of paragraphs (or 1 for the document) that could not be typeset.
        failed: pages that could not be drawn.
    """

    number: int
    name: str
    split: Split
    pages: list[DrawnPage]
    attempted: int
    dropped: Counter[DropReason]
    failed: list[FailedPage] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    drawing: Drawing
    documents: list[SelectedDocument]
    last_kept: dict[Split, PageKey]


def draw_documents(
    documents: Iterable[SelectedDocument], drawing: Drawing, last_kept: Mapping[Split, PageKey], pool: WorkerPool
) -> Iterator[DrawnDocument]:
    """Yield the drawn ``documents`` in order, whatever the number of workers.

    Args:
        last_kept: the keys of the last pages that limits keep, read again for every task; pages above are counted but
            not drawn.

    Raises:
        UserError: a worker process died; names the documents that it was probably drawing.
    """
    try:
        for drawn in pool.map(_draw, _tasks(iter(documents), drawing, last_kept), _name):
            yield from drawn
    finally:
        if workplace := _workplaces.pop(drawing.folder, None):  # with one worker, this process draws
            workplace.close()


def import_drawing() -> None:
    """Do nothing; calling this in a process makes it import what drawing needs."""


def _tasks(
    documents: Iterator[SelectedDocument], drawing: Drawing, last_kept: Mapping[Split, PageKey]
) -> Iterator[_Task]:
    while batch := list(islice(documents, _DOCUMENTS_PER_TASK)):
        yield _Task(drawing, batch, dict(last_kept))


def _name(task: _Task) -> str:
    return f"documents {task.documents[0].source_id} to {task.documents[-1].source_id}"


class _Workplace:
    """What a process keeps between the tasks of one drawing."""

    def __init__(self, drawing: Drawing) -> None:
        keep_freed_memory()
        _check_variant(drawing.variant)
        self.renderer = DocumentRenderer(drawing.config, drawing.faces)
        self.pages = PageFile(drawing.folder)

    def close(self) -> None:
        self.pages.close()
        self.renderer.close()


def _check_variant(expected: str) -> None:
    if (found := pixel_variant()) != expected:
        raise UserError(
            f"a worker process draws or encodes pages differently (variant {found or 'reference'}) from the process "
            f"that started it (variant {expected or 'reference'})",
            mend="run prepare again; if it fails again, check the machine's memory and processor",
        )


_workplaces: dict[Path, _Workplace] = {}


def _draw(task: _Task) -> list[DrawnDocument]:
    folder = task.drawing.folder
    if folder not in _workplaces:
        _workplaces[folder] = _Workplace(task.drawing)
    workplace = _workplaces[folder]
    drawn = []
    for document in task.documents:
        result = workplace.renderer.render(document, task.last_kept)
        stored = [
            DrawnPage(page.order, page.rank, page.letter_height, workplace.pages.append(page.image, page.metadata))
            for page in result.pages
        ]
        drawn.append(
            DrawnDocument(
                number=document.number,
                name=document.source_id,
                split=document.split,
                pages=stored,
                attempted=result.attempted,
                dropped=result.dropped,
                failed=result.failed,
            )
        )
    workplace.pages.flush()
    return drawn
