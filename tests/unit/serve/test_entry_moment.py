"""When pages enter a running batch: entries that take long wait for more pages, and none waits for ever."""

from itertools import pairwise

import pytest

from components.serve.engines.entry_moment import EntryMoment


def test_without_running_pages_or_known_entries_pages_enter_at_once() -> None:
    moment = EntryMoment()
    assert not moment.has_come(waiting=0, running=3, now=0.0)
    assert moment.has_come(waiting=1, running=0, now=0.0)
    assert moment.has_come(waiting=1, running=31, now=0.0)


def test_the_fixed_part_is_what_the_fastest_entries_of_two_sizes_have_in_common() -> None:
    moment = EntryMoment()
    for pages, seconds in ((1, 9.0), (32, 0.42), (2, 0.12), (32, 0.90), (2, 0.50)):
        moment.entered(pages, seconds)
    assert moment.fixed_seconds() == 0.12, "the first entry allocated memory, and no other one is known of one page"
    moment.entered(1, 0.11)
    assert moment.fixed_seconds() == pytest.approx(0.10)


def test_pages_wait_together_as_long_as_they_would_stop_the_others() -> None:
    moment = EntryMoment()
    moment.entered(1, 0.11)
    moment.entered(31, 0.41)
    now, entered = 0.0, list[float]()
    for step in range(1, 1001):  # another page has a place each 80 ms, and none of those that run ends
        now = step * 0.01
        if moment.has_come(waiting=int((now - (entered[-1] if entered else 0)) / 0.08), running=28, now=now):
            entered.append(now)
            moment.entered(8, 0.18)
    pauses = [later - earlier for earlier, later in pairwise(entered)]
    assert len(pauses) > 10
    for pause in pauses:  # 0.08 + 0.16 + ... page-seconds against 28 * 0.1
        assert 0.5 < pause < 0.9


def test_waiting_begins_anew_when_no_page_waits() -> None:
    moment = EntryMoment()
    moment.entered(1, 0.2)
    moment.entered(2, 0.2)
    assert not moment.has_come(waiting=4, running=8, now=0.0)
    assert not moment.has_come(waiting=0, running=8, now=0.3)
    assert not moment.has_come(waiting=4, running=8, now=10.0)
    assert not moment.has_come(waiting=4, running=8, now=10.3)
    assert moment.has_come(waiting=4, running=8, now=10.5)
