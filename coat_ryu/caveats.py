"""What a move would lose or change of a container that can be moved all the same: told before, and in the record.

``needs`` is the hook's ``container_needs``; of what a node does not say nothing is told. docs/limits.md has all of it,
also what no node can see.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Caveat:
    cause: str
    message: str


def warnings(needs: dict[str, Any]) -> list[Caveat]:
    """Everything that the move of a container would not bring along as it is."""
    return [*_sleepers(needs), *_log(needs)]


def _log(needs: dict[str, Any]) -> Iterator[Caveat]:
    log = needs.get("log")
    if log is None:
        return
    if log["bytes"] is None:
        message = "what podman logs shows of before the move is in no file of Podman's, and stays behind"
        yield Caveat("log_left_behind", message)
    elif log["bytes"] > log["moves"]:
        message = f"of the {log['bytes'] >> 10} KiB that podman logs shows the last {log['moves'] >> 10} come along"
        yield Caveat("log_cut", message)


def _sleepers(needs: dict[str, Any]) -> Iterator[Caveat]:
    if needs.get("sleepers"):
        message = (
            f"{', '.join(needs['sleepers'][:3])} may end early: CRIU cuts a sleep short (EINTR), and not every sleep(1)"
        )
        yield Caveat("sleep_ends_early", f"{message} sleeps on then")


def after_restore(restored: dict[str, Any], checkpointed: dict[str, Any]) -> Iterator[Caveat]:
    """What turned out to be lost, from what the hook says of both."""
    lost, left_out = restored.get("options_lost"), checkpointed.get("sockets_left_out")
    if lost:
        yield Caveat("options_lost", f"not set again on the container's sockets: {'; '.join(lost[:3])}")
    if left_out:
        message = f"{left_out} sockets were too many to be looked at in the freeze"
        yield Caveat("sockets_left_out", f"{message}, so options and multicast groups that CRIU forgets are lost")
