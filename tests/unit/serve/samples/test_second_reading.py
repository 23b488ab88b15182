"""The canary's second reading holds no version back."""

import time

from components.serve.adapters.catalog import Catalog
from components.serve.batching.fair_queue import FairQueue
from components.serve.batching.page_job import PageReading
from components.serve.observability.meter import Meter
from components.serve.samples.second_reading import SecondReader
from components.serve.samples.waiting_samples import Sample
from tests.fixtures.drawn_pages import drawn_page
from tests.fixtures.evaluated_package import plain_reading


def sample(version: str) -> Sample:
    reading = PageReading("new", "text", False, False, 8, 4, -0.1, -0.2, (), {})
    return Sample("request", 1, "challenger", drawn_page("x"), reading, None, 8, second_version=version)


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
