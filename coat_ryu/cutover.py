"""The order in which switches learn that a container's frames go elsewhere.

The rule behind all of it: a switch may forward towards the new place only when its next hop there does so already.
Then a frame that meets a switch which knows the new binding is carried to the new place by switches which know it too,
and a frame that does not is carried to the old place, whose switch is told last of those that matter and from then on
redirects. Versions never decrease along a frame's way, and within one version its way is a tree: it cannot loop, and it
is delivered once (compare C. Mahajan and R. Wattenhofer, "On consistent updates in software defined networks", 2013).
"""

from dataclasses import replace

from coat_ryu.model import Binding, Hold
from coat_ryu.overlay import Overlay


def stages(old: Binding, new: Binding) -> tuple[Binding, ...]:
    """The bindings to pass through from old to new, each of which needs one order only.

    A hold on another node than the place is made known before it fills, so that what comes out of it finds its way; and
    when hold and place move to different nodes they move one after the other. No switch sends under the hold's label
    (``flows.held_mac``) any more before the way into the hold may go.
    """
    steps: list[Binding] = []
    current = old
    if old.hold and _fills(old.hold) and _leaves(old.hold, new.hold):
        current = replace(current, hold=Hold(old.hold.tap, filling=False))
        steps.append(current)
    tap = new.hold.tap if new.hold and _fills(new.hold) else None
    known = current.hold.tap if current.hold else None
    if tap and tap != known and tap.node != current.place.node:
        current = replace(current, hold=Hold(tap, filling=False))
        steps.append(current)
    if new.delivery.node != new.place.node and new.hold != current.hold and new.place != current.place:
        current = replace(current, hold=new.hold)
        steps.append(current)
    if new.delivery.node != new.place.node and new.mac != current.mac and new.place != current.place:
        current = replace(current, mac=new.mac, former_macs=new.former_macs)
        steps.append(current)
    return tuple(step for step in [*steps, new] if step != old)


def _fills(hold: Hold) -> bool:
    return hold.filling or hold.turned or hold.sifting


def _leaves(old: Hold, new: Hold | None) -> bool:
    return new is None or new.tap != old.tap or ((old.turned or old.sifting) and not _fills(new))


def root(old: Binding, new: Binding) -> str:
    """The node whose tree of paths gives the order of one stage."""
    if new.place != old.place and new.delivery == old.delivery:
        return new.place.node
    return new.delivery.node


def chain(overlay: Overlay, old: Binding, new: Binding) -> tuple[str, ...]:
    """The switches that must confirm one stage, in order: from the root to every node where the container is or was.

    All other switches may follow at any later time, each after its next hop (``parent``).
    """
    top = root(old, new)
    order = [top]
    places = [new.place, *new.origins, old.place, *old.origins]
    if new.hold:
        places.append(new.hold.tap)
    nodes = [place.node for place in places]
    if new.hold:  # the way from the place to the hold, which may be another than back
        nodes += overlay.path(new.place.node, new.hold.tap.node)
    # The node that delivers now comes last: until then it still takes what switches with the old binding send.
    for node in [*nodes, old.delivery.node]:
        for hop in reversed(overlay.path(node, top) or (node,)):
            if hop not in order:
                order.append(hop)
    return tuple(order)


def parent(overlay: Overlay, node: str, old: Binding, new: Binding) -> str | None:
    """The switch that must have a stage before this one may; None for the root and for a node that cannot reach it."""
    return overlay.next_hop(node, root(old, new))
