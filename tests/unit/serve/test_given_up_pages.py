"""Pages that end otherwise than read: nobody waits for one any more, or the device breaks."""

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from components.serve.batching.fair_queue import FairQueue
from components.serve.batching.page_job import PageJob
from components.serve.config import ServeConfig
from components.serve.engines.embedded import EmbeddedEngine
from components.serve.engines.lane import Lane
from components.serve.engines.protocol import EngineStoppedError
from components.serve.observability.meter import Meter
from tests.fixtures.drawn_pages import drawn_page


def job(text: str) -> PageJob:
    return PageJob(drawn_page(text), None, "tiny-base", "client", 48, time.monotonic() + 3600)


def test_a_page_that_is_given_up_while_it_is_read_leaves_the_batch() -> None:
    """The first page is given up in the middle: the engine itself calls ``on_text`` with its first piece of text."""
    config = ServeConfig(max_new_tokens=48, max_batch_size=1)
    queue, meter = FairQueue(8), Meter()
    engine = EmbeddedEngine(config, "tiny-base", queue, meter)
    first, second, third = job("page one"), job("page two"), job("page three")
    given_up: list[str] = []

    def give_up(text: str) -> None:
        given_up.append(text)
        first.result.cancel()
        third.result.cancel()  # it waits

    first.on_text = give_up
    queue.put([first, second, third])
    engine.start()
    try:
        assert second.result.result(timeout=600).text
        assert len(given_up) == 1 and first.result.cancelled() and third.result.cancelled()
        queue.drop_unwanted()
        assert len(queue) == 0
    finally:
        engine.stop()
    assert engine.running_pages() == 0
    assert b'deepsynth_serve_pages_total{model="tiny-base"} 1.0' in meter.text(), "one page was read to its end"


def test_a_device_that_breaks_while_a_page_enters_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every later page would fail alike, in a service that calls itself healthy."""

    ordered: list[Future[Any]] = []

    def broken(lane: Lane, pages: object) -> None:
        ordered.append(engine.load("late", Path("none")))
        raise torch.AcceleratorError("an illegal memory access was encountered", 700)

    monkeypatch.setattr(Lane, "_enter_together", broken)
    queue = FairQueue(8)
    engine = EmbeddedEngine(ServeConfig(max_batch_size=2), "tiny-base", queue, Meter())
    pages = [job("page one"), job("page two")]
    queue.put(pages)
    engine.start()
    try:
        for page in pages:
            with pytest.raises(torch.AcceleratorError):
                page.result.result(timeout=600)
        engine._thread.join(60)
        assert isinstance(engine.failure(), torch.AcceleratorError)
        for order in (*ordered, engine.unload("tiny-base")):
            assert isinstance(order.exception(timeout=600), EngineStoppedError), (
                "an administrator does not wait for ever"
            )
    finally:
        engine.stop()


def test_orders_end_when_the_base_cannot_be_loaded(tmp_path: Path) -> None:
    engine = EmbeddedEngine(ServeConfig(model=str(tmp_path)), tmp_path.name, FairQueue(8), Meter())
    order = engine.load("early", tmp_path)
    engine.start()
    assert isinstance(order.exception(timeout=600), EngineStoppedError)
    assert engine.failure() is engine.ready.exception() is not None
    engine.stop()
