"""Where a container is, from what nodes say of it. A journal that is new, or was restored, knows less than they."""

from collections.abc import Collection, Mapping

from coat_ryu.errors import CoatError

ALIVE = ("running", "paused")
HAS_RUN = (*ALIVE, "checkpointed", "stopped")
"""States of a container that is more than made ready."""
_WORTH = {state: worth for worth, state in enumerate(("created", "stopped", "checkpointed", "paused", "running"))}


class Doubled(CoatError):
    """It cannot be said which of several copies is the one."""


def whereabouts(
    name: str, found: Mapping[str, str], home: str | None = None, forsaken: Collection[str] = ()
) -> str | None:
    """The node that has the container: ``found`` is node to state, ``home`` where it is thought to live, ``forsaken``
    are nodes whose copy a migration has taken back. None if no node has one that ever ran, its home not even one made
    ready. Raises Doubled.
    """
    alive = [node for node, state in found.items() if state in ALIVE and (node not in forsaken or home not in found)]
    if home in alive:
        return home
    if len(alive) > 1:
        raise Doubled(f"{name} runs on {' and on '.join(alive)}: end one of them there by hand")
    if alive:
        return alive[0]
    if (
        home is not None
        and home in found
        and (found[home] in HAS_RUN or not any(state in HAS_RUN for state in found.values()))
    ):
        return home
    rest = {node: state for node, state in found.items() if state in HAS_RUN and node not in forsaken}
    return max(rest, key=lambda node: _WORTH[rest[node]], default=None)
