"""In which order waiting pages are read, and which are given up: no test here depends on how fast the machine is.

All pages wait before the engine starts, and what happens while a page is read happens in its own callback.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager

import pytest

from components.serve.batching.fair_queue import FairQueue, QueueFullError
from components.serve.batching.page_job import PageJob, RequestTimeoutError
from components.serve.config import ServeConfig
from components.serve.engines.embedded import EmbeddedEngine
from components.serve.observability.meter import Meter
from tests.fixtures.drawn_pages import drawn_page

MODEL = "tiny-base"


def job(
    client: str, seconds: float = 3600, on_text: Callable[[str], None] | None = None, model: str = MODEL
) -> PageJob:
    page = drawn_page("a page")
    return PageJob(page, None, model, client, max_new_tokens=16, deadline=time.monotonic() + seconds, on_text=on_text)


@contextmanager
def engine_of(queue: FairQueue, rows: int) -> Iterator[EmbeddedEngine]:
    config = ServeConfig(model=MODEL, max_batch_size=rows, max_new_tokens=16)
    engine = EmbeddedEngine(config, MODEL, queue, Meter())
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@pytest.fixture
def queue() -> FairQueue:
    return FairQueue(16)


def test_a_client_with_many_pages_does_not_keep_one_with_a_single_page_waiting(queue: FairQueue) -> None:
    read: list[str] = []
    jobs = [*(job("many") for _ in range(6)), job("one"), job("two"), job("two")]
    for each in jobs:
        each.result.add_done_callback(lambda _, each=each: read.append(each.client))  # type: ignore[misc]
        queue.put([each])
    with engine_of(queue, rows=1):
        wait([each.result for each in jobs])
    assert read == ["many", "one", "two", "many", "two", "many", "many", "many", "many"]


def test_pages_beyond_the_queues_bounds_are_refused_all_or_none(queue: FairQueue) -> None:
    queue.put([job("first") for _ in range(15)])
    with pytest.raises(QueueFullError):
        queue.put([job("first"), job("first")])
    assert len(queue) == 15
    queue.put([job("first")])


def test_no_client_shuts_another_out_of_the_queue(queue: FairQueue) -> None:
    """However much each one wants, the next one gets in: half of what the others leave."""
    for client, pages in (("first", 16), ("second", 8), ("third", 4), ("fourth", 2), ("fifth", 1)):
        queue.put([job(client) for _ in range(pages)])
        with pytest.raises(QueueFullError):
            queue.put([job(client)])
    assert len(queue) == 31
    queue.take(MODEL, 31)
    queue.put([job("fifth") for _ in range(16)])
    with pytest.raises(QueueFullError):
        queue.put([job("fifth")])


def test_a_model_with_many_pages_does_not_keep_anothers_waiting(queue: FairQueue) -> None:
    """An engine with room for one page begins with the first model each time."""
    queue.put([*(job("a client", model="busy") for _ in range(5)), *(job("a client", model="quiet") for _ in range(2))])
    read = list[str]()
    while waiting := queue.models():
        taken = [queue.take(model, 1 if place == 0 else 0) for place, model in enumerate(waiting)]
        read += [page.model for pages in taken for page in pages]
    assert read == ["busy", "quiet", "busy", "quiet", "busy", "busy", "busy"]


def test_a_client_that_is_gone_frees_its_places_in_the_queue_and_in_the_batch(queue: FairQueue) -> None:
    heard: list[str] = []

    def leave(text: str) -> None:
        heard.append(text)
        gone.result.cancel()

    gone, waited = job("gone", on_text=leave), job("gone")
    last = job("stays")
    queue.put([gone, waited, last])
    waited.result.cancel()
    queue.drop_unwanted()
    assert len(queue) == 2
    with engine_of(queue, rows=1) as engine:
        assert last.result.result().text
        assert engine.running_pages() == 0
    assert len(heard) == 1, "its row was given up after the first piece of text"
    assert len(last.result.result().text) > len(heard[0])


def test_a_page_whose_time_is_over_is_given_up_in_the_queue_and_in_the_batch(queue: FairQueue) -> None:
    heard: list[str] = []

    def be_late(text: str) -> None:
        heard.append(text)
        late.deadline = 0.0

    late, waited, last = job("a", on_text=be_late), job("b", seconds=-1), job("c")
    queue.put([waited, late, last])
    with engine_of(queue, rows=2):
        assert last.result.result().text
        for each in (late, waited):
            assert isinstance(each.result.exception(), RequestTimeoutError)
    assert len(heard) == 1
