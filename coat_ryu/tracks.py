"""The versions of a container's binding, and which of them each switch may have (the rule is in ``cutover``)."""

from collections.abc import Mapping

from coat_ryu import cutover
from coat_ryu.model import Binding
from coat_ryu.overlay import Overlay

LONG = 16
"""Versions from which on it is worth asking all switches which of them nobody needs any more."""
KEPT = 256
"""Versions remembered for switches that are away; one that missed more goes on from the oldest that is left."""


class Track:
    """One container's bindings, oldest first; every stage of a change is a version of its own."""

    def __init__(self, binding: Binding, version: int) -> None:
        self._bindings = [binding]
        self._first = version

    @property
    def newest(self) -> Binding:
        return self._bindings[-1]

    @property
    def is_long(self) -> bool:
        """Whether it remembers more than a few migrations need."""
        return len(self._bindings) > LONG

    @property
    def version(self) -> int:
        return self._first + len(self._bindings) - 1

    def push(self, binding: Binding) -> int:
        self._bindings.append(binding)
        self.forget(self.version - KEPT)
        return self.version

    def at(self, version: int) -> Binding:
        return self._bindings[max(version, self._first) - self._first]

    def forget(self, version: int) -> None:
        """Versions before this one are not needed any more."""
        count = min(version, self.version) - self._first
        if count > 0:
            del self._bindings[:count]
            self._first += count

    def reachable(self, overlay: Overlay, node: str, current: int | None, confirmed: Mapping[str, int]) -> int:
        """The newest version that a switch which has ``current`` may be given, ``confirmed`` being what others have.

        A switch that has none yet forwards nothing for this container and may have the newest at once. So may one whose
        next hops, to hold and to place, have it: then a way back needs nothing of a switch that never moved. Else it
        goes version by version, each of which has one order only.
        """
        ends = {self.newest.delivery.node, self.newest.place.node}
        hops = (overlay.next_hop(node, end) for end in ends)
        if current is None or all(hop is None or confirmed.get(hop, -1) >= self.version for hop in hops):
            return self.version
        current = max(current, self._first)
        while current < self.version:
            parent = cutover.parent(overlay, node, self.at(current), self.at(current + 1))
            if parent is not None and confirmed.get(parent, -1) <= current:
                break
            current += 1
        return current
