"""Events: numbered without a gap, resumable, and nobody who tells waits for anybody who reads."""

import threading
from itertools import islice

import pytest

from coat_ryu.feed import READERS, EventsGone, Feed, TooManyReaders


def a_feed(kept: int = 8) -> Feed:
    return Feed(kept, clock=lambda: 1.0)  # numbers begin at 1000


def test_a_reader_gets_what_comes_after_the_number_it_knows() -> None:
    feed = a_feed()
    for node in "abc":
        feed.tell("node", node=node)
    found = list(islice(feed.follow(1001), 2))
    assert [(event["number"], event["kind"], event["node"]) for event in found if event] == [
        (1002, "node", "b"),
        (1003, "node", "c"),
    ]
    assert all(event and event["at"] == "1970-01-01T00:00:01.000000Z" for event in found)


def test_without_a_number_a_reader_gets_what_comes_from_now_on() -> None:
    feed = a_feed()
    feed.tell("node", node="before")
    events = feed.follow(patience=5)
    teller = threading.Timer(0.05, lambda: feed.tell("node", node="after"))
    teller.start()
    first = next(events)
    teller.join()
    assert first is not None and first["node"] == "after"


def test_silence_is_told_now_and_then() -> None:
    assert next(a_feed().follow(patience=0.01)) is None


@pytest.mark.parametrize("since", [0, 1001, 2000])
def test_what_is_not_there_any_more_is_said(since: int) -> None:
    feed = a_feed(kept=2)
    for node in "abcd":
        feed.tell("node", node=node)
    with pytest.raises(EventsGone, match="those after 1002, up to 1004"):
        feed.follow(since)


def test_a_reader_that_is_left_behind_gets_a_last_word() -> None:
    feed = a_feed(kept=2)
    feed.tell("node", node="a")
    events = feed.follow(1000)
    assert next(events)["node"] == "a"  # type: ignore[index]
    for node in "bcde":
        feed.tell("node", node=node)
    left = list(events)
    assert [event["kind"] for event in left if event] == ["end"]
    assert "too slow" in left[0]["message"]  # type: ignore[index]
    assert feed.readers == 0


def test_readers_are_counted_and_bounded() -> None:
    feed = a_feed()
    readers = [feed.follow(patience=0.001) for _ in range(READERS)]
    assert [next(reader) for reader in readers] == [None] * READERS
    with pytest.raises(TooManyReaders):
        feed.follow()
    readers[0].close()  # type: ignore[attr-defined]
    assert feed.readers == READERS - 1
    assert next(feed.follow(patience=0.001)) is None


def test_numbers_of_a_later_controller_are_higher() -> None:
    earlier, later = Feed(clock=lambda: 100.0), Feed(clock=lambda: 200.0)
    for _ in range(1000):
        earlier.tell("node")
    assert later.newest > earlier.newest
