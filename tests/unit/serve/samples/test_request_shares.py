"""Which requests the challenger reads and which are kept: known beforehand, because a hash of their ids decides."""

import hashlib
import math

import pytest

from components.serve.adapters.catalog import CHALLENGER, CHAMPION, Admission, Catalog
from components.serve.batching.fair_queue import FairQueue
from components.serve.batching.page_job import PageJob
from tests.fixtures.drawn_pages import drawn_page
from tests.fixtures.evaluated_package import plain_reading

IDS = [f"request-{number}" for number in range(4000)]


def catalog(share: float) -> Catalog:
    """Return two versions: the base is the champion."""
    found = Catalog("base", share)
    found.add("new", plain_reading())
    found.point(CHAMPION, "base")
    found.point(CHALLENGER, "new")
    return found


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_challenger_reads_exactly_the_share_that_the_hash_chooses(share: float) -> None:
    versions = catalog(share)
    chosen = {one for one in IDS if versions.admit(CHAMPION, one) == Admission("new", other="base")}
    limit = share * 2**256
    assert chosen == {one for one in IDS if int(hashlib.sha256(one.encode()).hexdigest(), 16) < limit}
    deviation = math.sqrt(len(IDS) * share * (1 - share))
    assert abs(len(chosen) - share * len(IDS)) <= 4 * deviation
    assert chosen == {one for one in IDS if versions.admit(CHAMPION, one).version == "new"}, "and again the same"


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    few, many = ({one for one in IDS if catalog(share).admit(CHAMPION, one).other} for share in (0.1, 0.2))
    assert few < many


def test_only_requests_for_the_champion_are_shared() -> None:
    versions = catalog(1.0)
    assert versions.admit("base", "x") == Admission("base")
    assert versions.admit(CHALLENGER, "x") == Admission("new")
    versions.point(CHALLENGER, "base")
    assert versions.admit(CHAMPION, "x") == Admission("base"), "both aliases name it: there is nothing to compare"
    versions.forget(CHALLENGER)
    assert versions.admit(CHAMPION, "x") == Admission("base")


def job(model: str, client: str = "a") -> PageJob:
    return PageJob(drawn_page("x"), None, model, client, 8, deadline=math.inf)


def test_a_page_in_the_background_waits_behind_every_clients_page() -> None:
    queue = FairQueue(2)
    behind = [job("base"), job("new")]
    for one in behind:
        queue.put_in_background(one)
    clients = [job("new"), job("base", "b")]
    queue.put(clients)
    assert len(queue) == 2, "it takes no place of the clients"
    assert sorted(queue.models()) == ["base", "new"]
    assert queue.take("base", 9) == clients[1:] and queue.models() == ["new"]
    assert queue.take("base", 9) == [], "a client waits, if for another version"
    assert queue.take("new", 9) == clients[:1]
    assert queue.models() == ["base"] and queue.take("new", 9) == []
    assert queue.take("base", 9) == behind[:1] and queue.take("new", 9) == behind[1:]
    cancelled = job("base")
    queue.put_in_background(cancelled)
    cancelled.result.cancel()
    queue.drop_unwanted()
    assert queue.models() == []
