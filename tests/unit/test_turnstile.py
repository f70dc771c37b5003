"""Requests that arrive together begin one after the other, so that the event loop turns between them."""

import pytest
from ryu.lib import hub

from coat_ryu.listen import Turnstile


def test_no_two_requests_begin_in_the_same_turn_of_the_event_loop() -> None:
    turns, began = [0], []

    def count() -> None:
        while True:
            turns[0] += 1
            hub.sleep(0)

    def application(environ: str, start_response: object) -> str:
        began.append(turns[0])
        hub.sleep(0.01)  # one that waits for a node keeps nobody
        return environ.upper()

    counter = hub.spawn(count)
    door = Turnstile(application)
    asked = [hub.spawn(door, name, None) for name in "abcdefgh"]
    answers = [one.wait() for one in asked]
    hub.kill(counter)
    assert answers == list("ABCDEFGH")
    assert len(set(began)) == len(began), began
    assert began[-1] - began[0] < 5 * len(began), "and nobody waits for the end of another's"


def test_a_request_that_fails_lets_the_next_one_in() -> None:
    def application(environ: object, start_response: object) -> None:
        raise ValueError(environ)

    door = Turnstile(application)
    for name in ("one", "two"):
        with pytest.raises(ValueError, match=name):
            door(name, None)
