"""The moment in which a container can be frozen: none of its connections is being opened, and none is half gone.

What opens a connection is held elsewhere by now (``turn``), so those that had begun come to their end within a round
trip or two. Between the last look and the freeze one may slip in; so it is looked at again, frozen, and if need be it
runs on for another moment, which costs it less than a millisecond.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coat_ryu.node import steady
from coat_ryu.node.failure import Failure
from coat_ryu.node.freezer import set_frozen
from coat_ryu.node.sockets import Sockets, Unsettled

PATIENCE = 1.3
"""Seconds that are given: a handshake whose last word was lost is asked for it again after one (RFC 6298)."""
QUIET = 0.01
"""Seconds without a connection being opened: a switch's datapath follows its tables within milliseconds."""
POLL = 0.001

Look = Callable[[], Unsettled]


@dataclass(frozen=True, slots=True)
class Settled:
    """``frozen_at`` on the node's clock, ``left`` what had not come to its end by then, ``tries`` to freeze it."""

    frozen_at: float
    waited: float
    tries: int
    left: Unsettled


def looking(pid: int) -> tuple[Look, Callable[[], None]]:
    """How to look at the connections of a container, and how to end it. Where that cannot be done there are none."""
    try:
        sockets = Sockets(Path(f"/proc/{pid}/ns/net"))
    except (Failure, OSError):
        return Unsettled, lambda: None

    def look() -> Unsettled:
        try:
            return sockets.unsettled()
        except OSError:
            return Unsettled()

    return look, sockets.close


def freeze(own: Path, look: Look, quiet: float, may_go_on: Callable[[], bool]) -> Settled:
    """Freezes the cgroup in a quiet moment, or when the patience is at an end. Raises OSError when it is gone."""
    began = time.monotonic()
    give_up, tries = began + PATIENCE, 0
    while True:
        _wait_for_quiet(look, quiet, give_up, may_go_on)
        waited, tries, frozen_at = time.monotonic() - began, tries + 1, steady.now()
        set_frozen(own, True)
        left = look()
        if not left or time.monotonic() > give_up or not may_go_on():
            return Settled(frozen_at, waited, tries, left)
        set_frozen(own, False)


def _wait_for_quiet(look: Look, quiet: float, give_up: float, may_go_on: Callable[[], bool]) -> None:
    since = time.monotonic()
    while (now := time.monotonic()) < give_up and may_go_on():
        if look():
            since = time.monotonic()
        elif now - since >= quiet:
            return
        time.sleep(POLL)
