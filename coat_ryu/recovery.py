"""What has become of a container whose migration was interrupted: asked of the nodes, never guessed.

An answer that did not come says nothing about the work: a restore may have succeeded although its connection was lost.
So before a migration goes back, its nodes are taken over (a later epoch, see ``node.fence``: what was asked before is
refused from then on, and what is under way has ended) and the destination is asked whether the container runs there.
"""

import logging
from collections.abc import Callable, Iterable

from coat_ryu.errors import CoatError, NodeTimeout, NodeUnreachable
from coat_ryu.moves import Move, Tally
from coat_ryu.nodes import Site

LOG = logging.getLogger(__name__)

REACH_TIMEOUT = 3.0
"""Seconds that a witness tries to reach a node."""


def runs_at_destination(move: Move, witnesses: Iterable[Site], patiently: Callable[[Callable[[], None]], None]) -> bool:
    """Whether the container has come to life at its destination. From here on the move has a later epoch.

    ``patiently`` repeats an action until it succeeds or patience is at an end. When the destination does not answer
    even then, the ``witnesses`` are asked: a host that none of them can reach is taken for dead, its copy with it, and
    ``move.destination_gone`` is set. Raises NodeUnreachable or NodeTimeout when it may be alive: to go back could make
    a second copy.
    """
    seen: list[bool] = []

    def ask() -> None:
        there = move.call(Tally(0.0, {}), move.destination, "container_inspect", {"name": move.name}).result
        seen.append(there is not None and there["state"] == "running")

    move.epoch += 1
    try:
        patiently(ask)
    except (NodeUnreachable, NodeTimeout):
        if not _is_gone(move.destination, witnesses):
            raise
        LOG.warning("node %s is taken for dead", move.record.destination)
        move.destination_gone = True
        return False
    return seen[-1]


def _is_gone(lost: Site, witnesses: Iterable[Site]) -> bool:
    """Whether no witness reaches the node. Without a witness that could be asked, nothing is known."""
    heard = False
    args = {"address": str(lost.node.address), "port": lost.node.ssh.port, "timeout": REACH_TIMEOUT}
    for witness in witnesses:
        if witness is lost or not witness.ready:
            continue
        try:
            if witness.call("reach", args, REACH_TIMEOUT * 3).result["reached"]:
                return False
            heard = True
        except CoatError as error:
            LOG.warning("node %s could not look for %s: %s", witness.node.name, lost.node.name, error)
    return heard
