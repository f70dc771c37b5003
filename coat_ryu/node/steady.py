"""The node's clock as the controller gets it: it runs evenly, whatever becomes of the machine's.

Seconds since the epoch when the hook begins; what is told of a migration, its downtime above all, are differences, and
a clock that is set in between must not get into them.
"""

import time

_AHEAD = time.time() - time.monotonic()


def now() -> float:
    return _AHEAD + time.monotonic()


def at(wall: float) -> float:
    """A time of the machine's clock, a file's for example, on this one."""
    return now() - (time.time() - wall)
