"""Documents drawn by several processes, handed back in the documents' order."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice

from components.prepare.config import PrepareConfig
from components.prepare.rendering.document_renderer import DocumentRenderer, RenderedDocument
from components.prepare.rendering.fonts import FontFace
from components.prepare.selection.selected_document import SelectedDocument
from components.shared.dataset_manifest import Split
from components.shared.errors import UserError

_DOCUMENTS_PER_TASK = 8
_TASKS_PER_WORKER = 3
"""Tasks that wait for each worker: enough that none is idle, few enough that memory does not grow."""

_renderer: DocumentRenderer


def draw_documents(
    documents: Iterable[SelectedDocument],
    config: PrepareConfig,
    faces: list[FontFace],
    order_limits: Mapping[Split, int],
) -> Iterator[RenderedDocument]:
    """Yield the drawn ``documents`` in their order, whatever the number of workers.

    Args:
        order_limits: read anew for every task: pages above the limit are counted and not drawn.

    Raises:
        UserError: a worker process died; names the first and last document that it may have been drawing.
    """
    if config.workers == 1:
        renderer = DocumentRenderer(config, faces)
        for document in documents:
            yield renderer.render(document, order_limits)
        return
    # Spawned, not forked: the progress bar's thread may hold a lock at the moment of a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.workers, context, _start_worker, (config, faces)) as pool:
        try:
            yield from _drawn_in_order(pool, iter(documents), config.workers * _TASKS_PER_WORKER, order_limits)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _drawn_in_order(
    pool: ProcessPoolExecutor, documents: Iterator[SelectedDocument], tasks: int, order_limits: Mapping[Split, int]
) -> Iterator[RenderedDocument]:
    waiting: deque[tuple[list[SelectedDocument], Future[list[RenderedDocument]]]] = deque()

    def submit() -> None:
        if batch := list(islice(documents, _DOCUMENTS_PER_TASK)):
            with _processes_that_ignore_ctrl_c():
                waiting.append((batch, pool.submit(_render, batch, dict(order_limits))))

    for _ in range(tasks):
        submit()
    while waiting:
        batch, future = waiting.popleft()
        try:
            yield from future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a drawing process died (killed, out of memory, or a font that its libraries cannot read)",
                where=f"documents {batch[0].source_id} to {batch[-1].source_id}, or soon behind them",
                mend="use fewer workers where memory is short, leave out unusual fonts, or set text_engine to pillow",
            ) from error
        submit()


@contextmanager
def _processes_that_ignore_ctrl_c() -> Iterator[None]:
    """Let processes that start in the block inherit a blocked SIGINT: this process ends them, in order."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(config: PrepareConfig, faces: list[FontFace]) -> None:
    global _renderer
    _renderer = DocumentRenderer(config, faces)


def _render(documents: list[SelectedDocument], order_limits: Mapping[Split, int]) -> list[RenderedDocument]:
    return [_renderer.render(document, order_limits) for document in documents]
