"""The canary's second reading holds no version back."""

import time
from dataclasses import replace

import pytest

from components.serve.adapters.catalog import Catalog
from components.serve.batching.fair_queue import FairQueue
from components.serve.batching.page_job import PageJob, PageReading
from components.serve.observability.meter import Meter
from components.serve.samples.second_reading import SecondReader
from components.serve.samples.waiting_samples import Sample
from tests.fixtures.drawn_pages import drawn_page
from tests.fixtures.evaluated_package import plain_reading


def sample(version: str, max_new_tokens: int | None = 8) -> Sample:
    reading = PageReading("new", "text", False, False, 8, 4, -0.1, -0.2, (), {})
    return Sample("request", 1, "challenger", drawn_page("x"), reading, None, max_new_tokens, second_version=version)


def test_a_reading_that_hangs_does_not_hold_its_version() -> None:
    """No engine takes the page from the queue, so it is never read."""
    queue, catalog, meter = FairQueue(4), Catalog("base"), Meter()
    catalog.add("champion", plain_reading())
    kept: list[Sample] = []
    reader = SecondReader(queue, catalog, meter, max_pages=4)
    reader.start(kept.extend)
    try:
        reader.offer([sample("champion")])
        deadline = time.monotonic() + 300
        while not queue.models():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        catalog.retire("champion")
        assert catalog.wait_for_last_request("champion", seconds=300), "and is given up, because it shall be unloaded"
        queue.drop_unwanted()
        assert queue.models() == [] and kept == []
    finally:
        reader.stop()


@pytest.mark.parametrize(("asked", "longest"), [(None, 30), (8, 8), (100, 40)])
def test_each_version_has_its_own_longest_answer(asked: int | None, longest: int) -> None:
    """Else the champion's texts would end where the challenger's may, and be called cut off."""
    queue, catalog = FairQueue(4), Catalog("base")
    catalog.add("champion", replace(plain_reading(), max_new_tokens=30, most_new_tokens=40))
    reader = SecondReader(queue, catalog, Meter(), max_pages=4)
    reader.start(lambda _: None)
    try:
        reader.offer([sample("champion", asked)])
        deadline, jobs = time.monotonic() + 300, list[PageJob]()
        while not (jobs := queue.take("champion", 1)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert jobs[0].max_new_tokens == longest
    finally:
        reader.stop()
