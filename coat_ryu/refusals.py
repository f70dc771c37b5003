"""OpenFlow connections that were not let in: all are counted, and a flood of them fills neither log nor events."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from coat_ryu.feed import Tell, silent

LOG = logging.getLogger(__name__)

QUIET = 10.0
"""Seconds between two words about one node and one reason."""

Reason = Literal["rival", "certificate", "unknown", "handshake", "limit"]
"""A live switch has the place; another node's certificate; not in the topology; no TLS or OpenFlow, or not in time; too
many that have not said who they are.
"""


class Refusals:
    """``on_refused(node, reason)`` is called for each; the node is empty when nobody knows it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[tuple[str, Reason]] = Counter()
        self.tell: Tell = silent
        self.on_refused: Callable[[str, Reason], None] = lambda node, reason: None
        self._clock = clock
        self._told: dict[tuple[str, Reason], tuple[float, int]] = {}

    def note(self, reason: Reason, address: Any, message: str, node: str = "") -> None:
        """``address`` is the peer's, as its socket has it."""
        key, now = (node, reason), self._clock()
        self.counts[key] += 1
        self.on_refused(node, reason)
        at, before = self._told.get(key, (-QUIET, 0))
        if now - at < QUIET:
            return
        self._told[key] = (now, self.counts[key])
        where, new = _printed(address), self.counts[key] - before
        LOG.warning("an OpenFlow connection from %s was refused (%s; %d so far): %s", where, reason, new, message)
        self.tell("refused", node=node or None, address=where, reason=reason, message=message, count=new)


def _printed(address: Any) -> str:
    """``host:port`` of a socket's address; those of Unix sockets have no name."""
    if not isinstance(address, tuple) or len(address) < 2:
        return "a local socket"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
