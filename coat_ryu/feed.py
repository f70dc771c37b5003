"""What happens, numbered, for whoever watches: a bounded ring of events that any number of readers follow.

Nobody who tells waits for anybody who reads. A reader that falls so far behind that the ring has gone round is let go
with a last word, and looks at the whole state again.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal, Protocol

from coat_ryu.errors import CoatError
from coat_ryu.saga import timestamp

KEPT = 4096
"""Events that can still be had: those of about two hundred migrations."""
READERS = 64

Kind = Literal["migration", "step", "binding", "node", "tunnel", "container", "refused", "end"]
Event = dict[str, Any]
"""``number``, ``at`` (RFC 3339), ``kind``, and what the kind brings along."""


class Tell(Protocol):
    """How those who do things say that they happened. It never blocks."""

    def __call__(self, kind: Kind, **data: Any) -> None: ...


def silent(kind: Kind, **data: Any) -> None:
    """For whom nobody listens to."""


class EventsGone(CoatError):
    default_cause = "events_gone"
    response = 410


class TooManyReaders(CoatError):
    default_cause = "too_many_readers"
    response = 503


class Counter(Protocol):
    def count(self, name: str, above: int = 0) -> int: ...


MOST = 1_000_000_000
"""Events that one controller may tell of."""


def last_number(counter: Counter, clock: Callable[[], float] = time.time) -> int:
    """Higher than every event's number of the controllers before, also when the clock has been set back since; and
    than those of before the journal counted, which were milliseconds.
    """
    before = counter.count("events")
    return counter.count("events", max(before + MOST, int(clock() * 1000)))


class Feed:
    """Numbers begin after ``last``, which must be higher than all of an earlier controller (``last_number``)."""

    def __init__(self, kept: int = KEPT, clock: Callable[[], float] = time.time, last: int | None = None) -> None:
        self._clock = clock
        # As text: an event's dicts and lists take ten times as much memory, and most events are never read.
        self._ring: deque[tuple[int, str]] = deque(maxlen=kept)
        self._number = int(clock() * 1000) if last is None else last
        self._news = threading.Condition()
        self.readers = 0

    @property
    def newest(self) -> int:
        """The number of the last event, or one that comes before all."""
        return self._number

    def tell(self, kind: Kind, **data: Any) -> None:
        with self._news:
            self._number += 1
            event = {"number": self._number, "at": timestamp(self._clock()), "kind": kind, **data}
            self._ring.append((self._number, json.dumps(event)))
            self._news.notify_all()

    def nudge(self) -> None:
        """Who follows gets a None at once: something else than an event has happened."""
        with self._news:
            self._news.notify_all()

    def follow(self, since: int | None = None, patience: float = 15.0) -> Iterator[Event | None]:
        """Events after number ``since`` (None: from now on), for ever; None after each ``patience`` seconds of silence.

        Raises EventsGone when what comes after ``since`` is not there any more, and TooManyReaders. A reader that is
        left behind later gets an event of the kind ``end``, and nothing after it.
        """
        at = self._number if since is None else since
        if not self._oldest() - 1 <= at <= self._number:
            raise EventsGone(
                f"since: the events after {since} are not here; there are those after {self._oldest() - 1}, up to"
                f" {self._number}: look at the state, then follow from there"
            )
        if self.readers >= READERS:
            raise TooManyReaders(f"{READERS} readers follow the events already")
        return self._follow(at, patience)

    def _follow(self, at: int, patience: float) -> Iterator[Event | None]:
        self.readers += 1
        try:
            while True:
                if at < self._oldest() - 1:
                    yield self._last_word()
                    return
                batch = self._after(at, patience)
                if not batch:
                    yield None
                    continue
                yield from batch
                at = batch[-1]["number"]
        finally:
            self.readers -= 1

    def _oldest(self) -> int:
        return self._ring[0][0] if self._ring else self._number + 1

    def _after(self, at: int, patience: float) -> list[Event]:
        with self._news:
            if self._number == at:
                self._news.wait(patience)
            newest = list(islice(reversed(self._ring), self._number - at))
        return [json.loads(text) for _, text in reversed(newest)]

    def _last_word(self) -> Event:
        message = f"too slow: more than {len(self._ring)} events behind; look at the state, then follow from here"
        return {"number": self._number, "at": timestamp(self._clock()), "kind": "end", "message": message}
