"""Who may keep a connection: so many in all, so many of one address, and who says nothing goes first.

A connection *greets* until its TLS handshake is over, which takes no place; then it *waits* whenever it has not sent a
whole request or has still to take its answer, and is *served* from the one to the other, and while it follows a
stream. Nobody who is served is sent away.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Literal

PLACES, SHARE = 512, 128
GREETINGS, GREETINGS_SHARE = 256, 64
"""In all, and of one address."""


@dataclass(eq=False, slots=True)
class Visit:
    """``hang_up`` ends the connection from above; ``since`` is when its state began."""

    address: str
    hang_up: Callable[[], None]
    since: float
    state: Literal["greets", "waits", "served"] = "greets"
    is_over: bool = False


class Places:
    def __init__(
        self,
        places: int = PLACES,
        share: int = SHARE,
        greetings: int = GREETINGS,
        greetings_share: int = GREETINGS_SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bounds = (places, share)
        self._greetings = (greetings, greetings_share)
        self._clock = clock
        self._visits: set[Visit] = set()

    def greet(self, address: str, hang_up: Callable[[], None]) -> Visit:
        """A connection that has come in; one that has greeted for long may have to go for it."""
        visit = Visit(neighbourhood(address), hang_up, self._clock())
        self._make_room(visit, [one for one in self._visits if one.state == "greets"], self._greetings)
        self._visits.add(visit)
        return visit

    def seat(self, visit: Visit) -> bool:
        """Gives it a place, for which one that waits may have to go. False if all are served."""
        if visit.is_over or not self._make_room(
            visit, [one for one in self._visits if one.state != "greets"], self._bounds
        ):
            return False
        self.wait(visit)
        return True

    def wait(self, visit: Visit) -> None:
        visit.state, visit.since = "waits", self._clock()

    def serve(self, visit: Visit) -> None:
        visit.state, visit.since = "served", self._clock()

    def leave(self, visit: Visit) -> None:
        self._visits.discard(visit)

    def _make_room(self, visit: Visit, there: list[Visit], bounds: tuple[int, int]) -> bool:
        in_all, share = bounds
        own = [one for one in there if one.address == visit.address]
        if len(own) >= share:
            return self._send_away(own)
        if len(there) < in_all:
            return True
        crowd = Counter(one.address for one in there if one.state != "served").most_common(1)
        return bool(crowd) and self._send_away(one for one in there if one.address == crowd[0][0])

    def _send_away(self, some: Iterable[Visit]) -> bool:
        """The one that has kept us waiting for the longest."""
        idle = [one for one in some if one.state != "served"]
        if not idle:
            return False
        longest = min(idle, key=lambda one: one.since)
        self.leave(longest)
        longest.is_over = True
        longest.hang_up()
        return True


def neighbourhood(address: str) -> str:
    """What counts as one address: an IPv6 host has all of its /64 (RFC 4291, section 2.5.4)."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return address
    return str(ip.ipv4_mapped or ip.packed[:8].hex())
