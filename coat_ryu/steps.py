"""What each step of the saga does, and how it is taken back.

Every function here can be repeated: a controller that died between doing a step and writing that it was done does it
again. Work on nodes goes through ``Move.call``, which adds up what remote control cost.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from coat_ryu import caveats, memory
from coat_ryu.containers import create_args, endpoint_args
from coat_ryu.errors import CoatError, Conflict, NodeError, SwitchError, SwitchTimeout
from coat_ryu.fabric import Loan, Waiter
from coat_ryu.flows import held_mac
from coat_ryu.keys import Identity, one_time_pair
from coat_ryu.model import VXLAN_OVERHEAD, Binding, ContainerSpec, container_port, namespace_name
from coat_ryu.moves import QUICK, Ahead, Move, Request, Tally
from coat_ryu.nodes import BRIDGE, Site, endpoint_name
from coat_ryu.preflight import check as may_move
from coat_ryu.preflight import is_in_full, presence, refuse, state_size, switches

PORT_TIMEOUT = 10.0
CUT_OVER_TIMEOUT = 10.0
"""Seconds that a port may take to be known to its switch's controller, and switches to confirm a cut-over."""
SWITCH_PATIENCE, SWITCH_POLL = 5.0, 0.25
"""Seconds that a switch may be away when there is no other way than on, and between two tries."""


# ---- before the freeze


def preflight(move: Move, tally: Tally) -> None:
    """Refuses what cannot work. Nothing is touched."""
    name, wanted = {"name": move.name}, ("image_inspect", {"image": move.spec.image})
    of_source = ("container_needs", name), _hello(move.source)
    of_destination = ("container_inspect", name), _hello(move.destination), wanted
    (needs, here_is), (there, there_is, named) = move.ask_both(tally, of_source, of_destination)
    refuse(switches({name: move.fabric.unanswered(name) for name in (move.record.source, move.record.destination)}))
    refuse(presence(move.name, move.record.source, move.record.destination, needs, there))
    underlay_mtu = move.inner_mtu + VXLAN_OVERHEAD
    may_move(move.record.source, move.record.destination, here_is, there_is, needs, underlay_mtu)
    memory.may_move(move, tally, here_is, there_is)
    if there is not None:  # what an earlier migration left
        move.call(tally, move.destination, "container_remove", {"name": move.name}, QUICK)
    move.image, move.image_is_there = needs["image_id"], named["id"] == needs["image_id"]
    move.record.warnings = caveats.warnings(needs)
    tally.detail.update(image=needs["image"], state=state_size(needs))


def _hello(site: Site) -> Request:
    return "hello", {"address": str(site.node.address)}


def image(move: Move, tally: Tally) -> None:
    """The destination has the image before anything is frozen: the state holds only what differs from it.

    The very one that the container runs, whatever its name means by now, here or there.
    """
    wanted = {"image": move.image}
    if move.image_is_there or _has_image(move, tally):
        tally.detail["brought"] = False
        return
    transfer = move.transfer + "-image"
    sender, receiver = one_time_pair(transfer)
    to = _receive(move, tally, transfer, receiver, "image", image=move.image)
    args = {"transfer": transfer, **wanted, "name": move.spec.image, "to": to, "tls": sender.as_args()}
    try:
        sent = move.call(tally, move.source, "send_image", args, move.bulk).result
        move.call(tally, move.destination, "receive_wait", {"transfer": transfer, "timeout": move.bulk}, move.bulk)
    finally:  # its end of the connection listens until it is told
        move.tidy(tally, move.destination, "transfer_discard", {"transfer": transfer})
    if not _has_image(move, tally):
        message = f"image: what arrived on {move.record.destination} is not the image {move.image} of {move.name}"
        raise Conflict(message, cause="image_differs")
    if sent["name"] and is_in_full(sent["name"], move.spec.image):
        move.call(tally, move.destination, "image_tag", {**wanted, "name": sent["name"]})
    tally.detail.update(brought=True, bytes=sent["bytes"])


def _has_image(move: Move, tally: Tally) -> bool:
    there = move.call(tally, move.destination, "image_inspect", {"image": move.image}).result
    return bool(there["id"] == move.image)


def hold(move: Move, tally: Tally) -> None:
    """A queue at the destination, known to the switches. It fills from the freeze on."""
    move.call(tally, move.destination, *hold_request(move))
    move.fabric.wait_port(move.tap.node, move.tap.port, PORT_TIMEOUT)
    move.fabric.cut_over(move.waiting(filling=False), CUT_OVER_TIMEOUT)


def undo_hold(move: Move, tally: Tally) -> None:
    """Frames go to the source again, those that waited first."""
    close = {"bridge": BRIDGE, "port": move.tap.port}
    _each(
        lambda: _turn(move, tally, move.waiting(filling=False)),
        lambda: _count(move, move.tidy(tally, move.destination, "hold_release", {"port": move.tap.port})),
        lambda: _count(move, move.tidy(tally, move.destination, "hold_close", close)),
        lambda: move.fabric.bind(move.at_source()),
    )


def undo_prepare(move: Move, tally: Tally) -> None:
    _each(
        lambda: move.tidy(tally, move.destination, "container_remove", {"name": move.name}),
        lambda: _discard(move, tally),
        lambda: memory.undo_prepare(move, tally),
    )


def _discard(move: Move, tally: Tally) -> None:
    gone = {"transfer": move.transfer}
    _each(
        lambda: move.tidy(tally, move.destination, "transfer_discard", gone),
        lambda: move.tidy(tally, move.source, "transfer_discard", gone),
    )


def _each(*actions: Callable[[], object]) -> None:
    """All of them, for none needs another. Raises the first error when the last has been tried."""
    errors: list[CoatError] = []
    for act in actions:
        try:
            act()
        except CoatError as error:
            errors.append(error)
    if errors:
        raise errors[0]


# ---- the paper's steps


def checkpoint(move: Move, tally: Tally) -> None:
    loan = move.fabric.lend(move.name)
    args = checkpoint_args(move, loan)
    ahead = Ahead(lambda: move.call(tally, move.source, "checkpoint", args, move.bulk))
    turned = turn_away(move, loan, move.waiting(filling=True))
    note_checkpoint(move, tally, {**ahead.result().result, **turned})


def turn_away(move: Move, loan: Loan | None, binding: Binding) -> dict[str, Any]:
    """At the gate: the container is frozen, its sockets still answer, and from here on what arrives goes to the hold.

    The source turns its own switch by what was lent to it; all others follow when they can. Where it could not, the
    switches that matter are turned from here, and the gate is opened. One that is not reached, for the checkpoint
    failed, is the checkpoint's own affair. Returns for the record who turned it, and the seconds that switches took.
    """
    made = False
    try:
        at_gate = move.source.call("freeze_wait", {"name": move.name, "attempt": move.transfer}, move.bulk).result
        made = at_gate["turned_s"] is not None
    finally:
        if loan is not None:
            (loan.made if made else loan.void)()
    if made:
        move.fabric.bind(binding)
        return {"turned_by": "node", "redirect_s": at_gate["turned_s"]}
    if at_gate["frozen_at"] is None:
        return {"turned_by": None, "redirect_s": 0.0}
    began = time.monotonic()
    move.fabric.cut_over(binding, CUT_OVER_TIMEOUT)  # when this fails nobody is let through, and the container runs on
    took = time.monotonic() - began
    move.source.call("freeze_pass", {"name": move.name}, QUICK)
    return {"turned_by": "controller", "redirect_s": took}


def undo_checkpoint(move: Move, tally: Tally) -> None:
    """The container runs on at the source, from its own checkpoint. A copy that was never stopped is left alone.

    One that has ended meanwhile, or was removed by hand, cannot; then ``move.ended`` says so.
    """
    here = move.call(tally, move.source, "container_inspect", {"name": move.name}).result
    if here is None:
        move.fabric.doubt(move.record.source, move.name)
        move.ended = Conflict(
            f"{move.name} is gone: somebody has removed it from {move.record.source}", cause="is_gone"
        )
        return
    try:
        _endpoint(move, tally, move.source, move.spec)
    except SwitchError as error:  # the port is there; its switch is brought up to date when it is back
        tally.detail["left_to_the_fabric"] = str(error)
    memory.undo_checkpoint(move, tally)
    move.fabric.doubt(move.record.source, move.name)  # it heard the fence, and turns nothing any more
    if here["state"] in ("running", "paused"):
        move.call(tally, move.source, "thaw", {"name": move.name})
        return
    args = {**restore_args(move), "transfer": None}
    try:
        move.call(tally, move.source, "restore", args, move.bulk)
    except NodeError as error:
        if error.cause != "has_ended":
            raise
        move.ended = error


def seal(move: Move) -> None:
    """The source's namespace goes while nobody is in it: it would answer what comes for the container with RST, and end
    connections that a later restore could still take up.
    """
    move.call(Tally(0.0, {}), move.source, "endpoint_remove", endpoint_name(move.name))


def clear_namespace(move: Move, tally: Tally) -> None:
    """The source's namespace goes. Before the pivot it must; after it, what a lost host keeps harms nobody."""
    remove = move.tidy if move.record.past_pivot else move.call
    remove(tally, move.source, "endpoint_remove", endpoint_name(move.name))


def undo_clear_namespace(move: Move, tally: Tally) -> None:
    _endpoint(move, tally, move.source, move.spec)


def transfer(move: Move, tally: Tally) -> None:
    to = _receive(move, tally, move.transfer, move.identities()[1], "state")
    sent = move.call(tally, move.source, "send_state", {"name": move.name, **sending(move, to)}, move.bulk).result
    waiting = {"transfer": move.transfer, "timeout": QUICK}
    move.call(tally, move.destination, "receive_wait", waiting, move.bulk)
    move.record.checkpoint_bytes = sent["bytes"]
    tally.detail.update(sent)


def undo_transfer(move: Move, tally: Tally) -> None:
    _discard(move, tally)


def create_namespace(move: Move, tally: Tally) -> None:
    _endpoint(move, tally, move.destination, move.moved_spec)


def undo_create_namespace(move: Move, tally: Tally) -> None:
    _each(
        lambda: move.tidy(tally, move.destination, "container_remove", {"name": move.name}),
        lambda: move.tidy(tally, move.destination, "endpoint_remove", endpoint_name(move.name)),
    )


def flow_update(move: Move, tally: Tally) -> None:
    """The binding is the destination's; what arrives is held there until the restore (the paper's step 3).

    Ahead of the freeze it is not: then the destination may only send already, and the rest is done at the gate.
    """
    ahead = "checkpoint" not in move.record.begun()
    move.fabric.cut_over(move.expecting() if ahead else move.crossing(filling=True), CUT_OVER_TIMEOUT)


def undo_flow_update(move: Move, tally: Tally) -> None:
    """The binding is the source's again. The hold stays in force until the container can take what waits in it."""
    _turn(move, tally, move.waiting(filling=True))


def restore(move: Move, tally: Tally) -> None:
    """The container runs again, and is given what waited for it."""
    create = ("container_create", create_args(move.moved_spec, move.image))
    restored, released = move.call_all(tally, move.destination, create, *restoring(move), timeout=move.bulk)[-2:]
    note_restore(move, tally, restored, released)


def undo_restore(move: Move, tally: Tally) -> None:
    """Nothing at the destination that could come to life; it was asked before, and does not run there.

    A host that is away or dead is swept if it comes back.
    """
    move.tidy(tally, move.destination, "container_remove", {"name": move.name})


# ---- after the pivot


def finish(move: Move, tally: Tally) -> None:
    """Frames take the direct way again and nothing is left of the old place."""
    if move.found_running:
        move.call(tally, move.destination, memory.restore(move), restore_args(move), move.bulk)
        move.fabric.doubt(move.record.source, move.name)
    settle_in(move, tally)
    move.tidy(tally, move.source, "chain", move.chained(*leaving(move)))


def settle_in(move: Move, tally: Tally) -> None:
    """Of ``finish`` the part at the destination, and that of the switches and of the peers."""
    memory.finish(move, tally)
    settled = _straighten(move, tally, ("transfer_discard", {"transfer": move.transfer}))
    if move.new_mac != move.spec.mac:
        _tell_peers(move, tally, settled)


def leaving(move: Move) -> tuple[Request, ...]:
    """What ends all that the source still has."""
    return ("container_remove", {"name": move.name}), ("transfer_discard", {"transfer": move.transfer})


def pages(move: Move, tally: Tally) -> None:
    """The container runs, and its frames take the direct way while its memory follows."""
    _straighten(move, tally)
    memory.await_pages(move, tally)


def _straighten(move: Move, tally: Tally, *then: Request) -> Waiter:
    _turn(move, tally, move.crossing(filling=False))
    close = ("hold_close", {"bridge": BRIDGE, "port": move.tap.port})
    _count(move, move.call_all(tally, move.destination, close, *then)[0])
    return move.fabric.bind(move.at_destination())


def _tell_peers(move: Move, tally: Tally, settled: Waiter) -> None:
    """The new MAC is announced, and the paper's explicit clearing (section III, step 3): every peer on a node of ours
    forgets what it knows of the container's addresses and asks anew. Frames to the old one go on arriving all the same:
    some peers never hear of the change (a permanent entry, a table behind a router of their own).
    """
    with contextlib.suppress(SwitchTimeout):  # a peer asks its own switch, which should know the answer
        settled.wait(CUT_OVER_TIMEOUT)
    tally.detail["announced"] = move.fabric.announce(move.at_destination())
    addresses = [str(ip) for ip in move.at_destination().ips]
    for site, peer in move.containers.peers(move.spec):
        args = {"netns": namespace_name(peer), "addresses": addresses}
        move.tidy(tally, site, "neighbour_flush", args)


def _turn(move: Move, tally: Tally, binding: Binding) -> None:
    """A cut-over that must come to its end: when a switch is away it is left to the fabric, which brings every switch
    up to date when it returns. That of a dead host is not waited for.
    """
    if move.destination_gone:
        move.fabric.bind(binding)
        return None
    give_up = time.monotonic() + SWITCH_PATIENCE
    while True:
        try:
            return move.fabric.cut_over(binding, CUT_OVER_TIMEOUT)
        except SwitchError as error:
            if time.monotonic() > give_up:
                tally.detail["left_to_the_fabric"] = str(error)
                move.fabric.bind(binding)
                return None
            time.sleep(SWITCH_POLL)


def hold_request(move: Move) -> Request:
    return "hold_open", {
        "bridge": BRIDGE,
        "port": move.tap.port,
        "max_packets": move.hold_packets,
        "max_bytes": move.hold_bytes,
        "mtu": move.inner_mtu,
        "first": held_mac(move.containers.network(move.spec).vni, move.name),
    }


def endpoint_request(move: Move, spec: ContainerSpec) -> Request:
    return "endpoint_ensure", endpoint_args(spec, move.containers.network(spec), move.inner_mtu)


def _endpoint(move: Move, tally: Tally, site: Site, spec: ContainerSpec) -> None:
    move.call(tally, site, *endpoint_request(move, spec))
    move.fabric.wait_port(site.node.name, container_port(move.name), PORT_TIMEOUT)


def _receive(move: Move, tally: Tally, transfer_id: str, identity: Identity, what: str, **more: str) -> dict[str, Any]:
    verb, args = receiving(move, transfer_id, identity, what, **more)
    return memory.where(args, move.call(tally, move.destination, verb, args).result)


def receiving(move: Move, transfer_id: str, identity: Identity, what: str, **more: str) -> Request:
    args = {"transfer": transfer_id, **memory.ends(move), "tls": identity.as_args(), "what": what, **more}
    return "receive_open", args


def checkpoint_args(move: Move, loan: Loan | None) -> dict[str, Any]:
    args: dict[str, Any] = {"name": move.name, "port": container_port(move.name), "attempt": move.transfer}
    if loan is not None:
        parts = {"messages": loan.messages, "sift": loan.sift, "unsift": loan.unsift}
        args["turn"] = {"bridge": BRIDGE, **{part: [one.hex() for one in parts[part]] for part in parts}}
    return args


def sending(move: Move, to: dict[str, Any]) -> dict[str, Any]:
    return {"transfer": move.transfer, "to": to, "tls": move.identities()[0].as_args()}


def restore_args(move: Move) -> dict[str, Any]:
    netns = endpoint_name(move.name)["netns"]
    args = {"name": move.name, "transfer": move.transfer, "netns": netns, "mtu": move.inner_mtu}
    return args if move.repair_mss else {**args, "repair_mss": False}


def restoring(move: Move) -> list[Request]:
    """The restore at the destination, which releases the hold at the container's first instruction; then the counts."""
    release = {"port": move.tap.port, "into": container_port(move.name), "mac": move.moved_spec.mac}
    return [(memory.restore(move), {**restore_args(move), "release": release}), ("hold_release", release)]


def note_checkpoint(move: Move, tally: Tally, result: dict[str, Any]) -> None:
    move.note_frozen(result["frozen_at"])
    tally.detail.update(result)


def note_restore(move: Move, tally: Tally, restored: dict[str, Any], released: dict[str, Any]) -> None:
    move.note_resumed(restored["resumed_at"])
    _count(move, released)
    tally.detail.update(restored, **released)
    checkpointed = next((step.detail for step in move.record.steps if step.name == "checkpoint"), {})
    move.record.warnings += caveats.after_restore(restored, checkpointed)


def _count(move: Move, counts: dict[str, Any] | None) -> None:
    if counts is None:
        return
    move.record.held_packets = max(move.record.held_packets, counts["held"])
    move.record.replayed_packets = max(move.record.replayed_packets, counts["replayed"])
    move.record.dropped_packets = max(move.record.dropped_packets, counts["dropped"])


Action = Callable[[Move, Tally], None]

DO: dict[str, Action] = {
    "preflight": preflight,
    "image": image,
    "hold": hold,
    "create_namespace": create_namespace,
    "flow_update": flow_update,
    "checkpoint": checkpoint,
    "clear_namespace": clear_namespace,
    "transfer": transfer,
    "restore": restore,
    "pages": pages,
    "finish": finish,
}

UNDO: dict[str, Action] = {
    "hold": undo_hold,
    "create_namespace": undo_create_namespace,
    "prepare": undo_prepare,
    "flow_update": undo_flow_update,
    "checkpoint": undo_checkpoint,
    "clear_namespace": undo_clear_namespace,
    "transfer": undo_transfer,
    "restore": undo_restore,
}
