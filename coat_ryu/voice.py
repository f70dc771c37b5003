"""Speaking to nodes of one container: every request carries an epoch, and a node obeys the highest that it has heard.

The epochs are the journal's, which counts them: no clock decides whose word is the later one. A node may remember a
higher one than a journal that is new, or was restored, has given; so who is refused asks the node and goes above it.
Whoever may not speak at all, another controller, is refused by the node as such (``node.master``) and never gets there.
"""

import logging
import threading
from typing import Any, Protocol

from coat_ryu.errors import NodeError
from coat_ryu.journal import EPOCH, JournalError

LOG = logging.getLogger(__name__)

FENCED = "fenced"
OUTBIDS = 3
"""How often one request is put above what a node has heard; only a fault of ours could make a second one necessary."""
ASK_TIMEOUT = 30.0


class Counter(Protocol):
    def count(self, name: str, above: int = 0) -> int: ...


class Hearer(Protocol):
    """A node, as ``nodes.Site``."""

    def call(self, verb: str, args: dict[str, Any] | None = None, timeout: float = 30.0) -> Any: ...


class Voice:
    """One piece of work on a container. Raises JournalError when its first epoch cannot be written."""

    def __init__(self, container: str, counter: Counter) -> None:
        self.container = container
        self._counter = counter
        self._lock = threading.Lock()
        self._takings = 0
        self.epoch = counter.count(EPOCH)

    @property
    def fence(self) -> dict[str, Any]:
        return {"container": self.container, "epoch": self.epoch}

    def fenced(self, args: dict[str, Any]) -> dict[str, Any]:
        """Arguments, also of a ``chain``'s steps, that a node refuses once it has heard a later epoch."""
        if "steps" in args:
            steps = [{**step, "args": self.fenced(step["args"])} for step in args["steps"]]
            return {"steps": steps, "fence": self.fence}
        return {**args, "fence": self.fence}

    def take_over(self) -> None:
        """A later epoch: what was asked before is refused from the next request on, and is under way no more when
        that is answered.
        """
        with self._lock:
            self._takings += 1
            self._go_above(self.epoch)

    def call(self, site: Hearer, verb: str, args: dict[str, Any], timeout: float) -> Any:
        """The node's answer. Raises NodeError, ``fenced`` only if this work was taken over meanwhile."""
        taken = self._takings
        for attempt in range(OUTBIDS + 1):
            epoch = self.epoch
            try:
                return site.call(verb, self.fenced(args), timeout)
            except NodeError as error:
                if error.cause != FENCED or taken != self._takings or attempt == OUTBIDS:
                    raise
                LOG.warning("%s", error)
                self._outbid(site, epoch, timeout)
        raise AssertionError("unreachable")

    def _outbid(self, site: Hearer, refused: int, timeout: float) -> None:
        heard = site.call("epoch_heard", {"container": self.container}, min(timeout, ASK_TIMEOUT)).result["epoch"]
        with self._lock:
            if self.epoch == refused:  # else somebody has, who was refused as well
                self._go_above(int(heard))

    def _go_above(self, heard: int) -> None:
        above = max(heard, self.epoch)
        try:
            self.epoch = self._counter.count(EPOCH, above)
        except JournalError as error:
            # Work that must come to its end does not wait for a disk. The journal may give the number once more, and
            # whoever gets it then is refused, asks, and goes above.
            LOG.error("%s", error)
            self.epoch = above + 1
