"""What the controller does all the time leaves nothing behind."""

import sys

import pytest

from coat_ryu import app


def test_a_look_at_the_event_loop_interns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interned strings' table keeps a place for each that has been in it, until it grows."""
    interned: list[str] = []

    def intern(text: str) -> str:
        interned.append(text)
        return text

    monkeypatch.setattr(sys, "intern", intern)
    assert app._run_queue_wait() >= 0
    assert interned == []
