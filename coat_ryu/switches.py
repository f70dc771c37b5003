"""The switches that are connected: flow changes go out as one bundle each, dumps and confirmations come back.

All calls block their own greenthread only (``ryu.lib.hub``) and end after ``timeout`` seconds at the latest. Replies
are matched by transaction id here, because ``ryu.app.ofctl`` serves one request per switch at a time and parses flow
dumps with Ryu's classes, 64 KB without a pause (see ``wire``).
"""

import logging
import struct
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ryu.lib import hub
from ryu.ofproto import ofproto_v1_3, ofproto_v1_3_parser

from coat_ryu import wire
from coat_ryu.errors import NotFound, SwitchError, SwitchGone, SwitchTimeout
from coat_ryu.openflow import Change
from coat_ryu.refusals import Reason, Refusals

LOG = logging.getLogger(__name__)

CHUNK = 256
"""Messages that are encoded and queued before other greenthreads get their turn: about 3 ms."""

PROOF = 3.0
"""Seconds that a switch has to show that it lives when another connection says that it is the same one."""

STRANGERS = 64
"""Switches of nobody's that may stay connected."""

_raw_dumps: set[int] = set()


class _RawBody:
    """The rest of a flow dump's reply, left as bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)


class _FlowStats:
    """Parses in OFPFlowStats' stead: bytes for the dumps asked for here, Ryu's own classes for others'."""

    @staticmethod
    def parser(buf: bytes, offset: int) -> Any:
        (xid,) = struct.unpack_from("!I", buf, 4)
        if xid in _raw_dumps:
            return _RawBody(bytes(buf[offset:]))
        return ofproto_v1_3_parser.OFPFlowStats.parser(buf, offset)


ofproto_v1_3_parser.OFPFlowStatsReply.cls_stats_body_cls = _FlowStats


@dataclass(frozen=True, slots=True)
class Port:
    number: int
    up: bool


class _Request:
    """Messages ``first`` to ``last`` of one switch, done when the reply to the last one is there."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.done = hub.Event()
        self.gone = False
        self.errors: list[tuple[int, str, bool]] = []
        self.parts: list[bytes] = []


@dataclass(eq=False)
class _Connection:
    node: str
    datapath: Any
    bundles: bool
    heard: float = 0.0
    ports: dict[str, Port] = field(default_factory=dict)
    requests: dict[int, _Request] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"the switch of node {self.node} (dpid {self.datapath.id:016x})"

    def block(self, count: int) -> int:
        """The first of ``count`` consecutive transaction ids; Ryu's own counter, so that they are nobody else's."""
        first = int(self.datapath.xid) + 1
        if first + count > 0xFFFFFFFF:
            first = 1
        self.datapath.xid = first + count - 1
        return first

    def send(self, data: bytes) -> None:
        if not self.datapath.send(data):
            raise SwitchGone(f"{self} closed its connection")


class Switchboard:
    """``names`` gives the node of every datapath id; switches that are not in it are left alone.

    Whoever has a node's place keeps it for as long as it lives. Another connection that says it is the same switch
    waits until that was asked for a sign of life, for ``proof`` seconds at the most: then it is refused, or has the
    place, and ``on_placed(node)`` is called. So nobody is unplugged by a stranger, and a switch whose connection died
    without a word gets in again.
    """

    def __init__(
        self, names: Mapping[int, str], *, timeout: float = 5.0, bundles: bool = True, proof: float = PROOF
    ) -> None:
        self._names = dict(names)
        self._timeout = timeout
        self._bundles = bundles
        self._proof = proof
        self._connections: dict[str, _Connection] = {}
        self._rivals: dict[str, Any] = {}
        self._strangers: list[Any] = []
        self.refusals = Refusals()
        self.on_placed: Callable[[str], None] = lambda node: None

    def rename(self, names: Mapping[int, str]) -> None:
        """Other switches are ours from now on. One that no longer is, is left to itself; one that is there already and
        has become ours is hung up on, for it comes back at once and is then new in every respect.
        """
        for connection in list(self._connections.values()):
            if names.get(connection.datapath.id) != connection.node:
                self._drop(connection)
                self._strangers.append(connection.datapath)
        self._names = dict(names)
        ours = [stranger for stranger in self._strangers if stranger.id in names]
        self._strangers = [stranger for stranger in self._strangers if stranger.id not in names]
        for datapath in ours:
            datapath.close()

    # --- what Ryu tells us

    def attach(self, datapath: Any) -> str | None:
        """A switch has connected: its node when it has its place, None when it is none of ours, refused, or waits."""
        node = self._names.get(datapath.id)
        if node is None:
            self._leave_alone(datapath)
            return None
        names = getattr(datapath, "certified", None)
        if names is not None and node not in names:
            whose = ", ".join(sorted(names)) or "nobody"
            self._refuse(datapath, "certificate", node, f"it says that it is {node}; its certificate is {whose}'s")
            return None
        if node not in self._connections:
            self._place(node, datapath)
            return node
        if node in self._rivals:
            self._refuse(datapath, "rival", node, f"the switch of {node} is connected, and another one waits already")
            return None
        self._rivals[node] = datapath
        hub.spawn(self._weigh, node, datapath)
        return None

    def detach(self, datapath: Any) -> str | None:
        """A connection has ended: its node, or None when it had not its place."""
        for connection in self._connections.values():
            if connection.datapath is datapath:
                self._drop(connection)
                return connection.node
        self._rivals = {node: one for node, one in self._rivals.items() if one is not datapath}
        self._strangers = [one for one in self._strangers if one is not datapath]
        return None

    def on_port(self, message: Any) -> str | None:
        """A port has come, changed or gone: its node."""
        connection = self._of(message.datapath)
        if connection is None:
            return None
        if message.reason == ofproto_v1_3.OFPPR_DELETE:
            connection.ports.pop(_port_name(message.desc), None)
        else:
            connection.ports[_port_name(message.desc)] = _port(message.desc)
        return connection.node

    def on_reply(self, message: Any) -> None:
        """A barrier reply, a flow dump or an error; those that nobody waits for are not ours."""
        connection = self._of(message.datapath)
        if connection is None:
            return
        if message.msg_type == ofproto_v1_3.OFPT_ERROR:
            self._on_error(connection, message)
        elif request := connection.requests.get(message.xid):
            if message.msg_type == ofproto_v1_3.OFPT_MULTIPART_REPLY:
                request.parts.extend(body.data for body in message.body)
                if message.flags & ofproto_v1_3.OFPMPF_REPLY_MORE:
                    return
            request.done.set()

    def node_of(self, datapath: Any) -> str | None:
        connection = self._of(datapath)
        return connection.node if connection else None

    # --- what the fabric asks

    def connected(self, node: str) -> bool:
        return node in self._connections

    def address(self, node: str) -> Any:
        """Where the switch has connected from; None when it has not."""
        connection = self._connections.get(node)
        return connection.datapath.address if connection else None

    def ports(self, node: str) -> dict[str, Port]:
        """The ports of a switch by name; none when it is not connected."""
        connection = self._connections.get(node)
        return dict(connection.ports) if connection else {}

    def read(self, node: str, *, ours_only: bool = True) -> list[wire.Entry]:
        """The flow entries that the switch has now. Raises SwitchGone, SwitchTimeout, SwitchError."""
        connection = self._connection(node)
        xid = connection.block(1)
        _raw_dumps.add(xid)
        try:
            request = self._run(connection, xid, xid, [wire.dump_request(xid, ours_only)])
        finally:
            _raw_dumps.discard(xid)
        entries: list[wire.Entry] = []
        for part in request.parts:
            entries.extend(wire.decode_stats(part))
            hub.sleep(0)
        return entries

    def apply(self, node: str, changes: Sequence[Change]) -> None:
        """Makes the changes in order, all or none, and returns when the switch has confirmed them by a barrier.

        A single change is atomic by itself, and saves a round trip. A switch that knows no bundles gets its changes one
        by one; the order then keeps every prefix harmless. Raises SwitchGone, SwitchTimeout, SwitchError.
        """
        if not changes:
            return
        connection = self._connection(node)
        if len(changes) > 1 and connection.bundles and self._apply_bundle(connection, changes):
            return
        first = connection.block(len(changes) + 1)
        messages = (wire.encode_change(change, first + index) for index, change in enumerate(changes))
        request = self._run(connection, first, first + len(changes), messages)
        _raise_errors(connection, request, changes, first)

    def _apply_bundle(self, connection: _Connection, changes: Sequence[Change]) -> bool:
        """False when the switch does not know bundles.

        The commit waits for the barrier behind the additions: Open vSwitch takes a malformed message out of the bundle
        and would commit the rest (seen with 3.5).
        """
        bundle = first = connection.block(len(changes) + 2)  # as unique on this connection as a bundle must be
        request = self._run(connection, first, first + len(changes) + 1, _bundle(bundle, changes))
        if any(xid == first and unknown for xid, _, unknown in request.errors):
            LOG.info("%s knows no bundles: flows are changed one by one", connection)
            connection.bundles = False
            return False
        closing = connection.block(2)
        if request.errors:
            self._run(connection, closing, closing + 1, [wire.bundle_discard(bundle, closing)])
        _raise_errors(connection, request, changes, first + 1)
        request = self._run(connection, closing, closing + 1, [wire.bundle_commit(bundle, closing)])
        _raise_errors(connection, request, (), closing)
        return True

    def ask(self, node: str, timeout: float) -> None:
        """Returns when the switch has answered. Raises SwitchGone, SwitchTimeout."""
        self._greet(self._connection(node), timeout)

    def send_packets(self, node: str, port: int, frames: Iterable[bytes]) -> None:
        """Sends frames out of a port; a switch that takes nothing now does not get them, for who sends them answers for
        all switches. Raises SwitchGone.
        """
        connection = self._connection(node)
        if getattr(connection.datapath, "is_full", False):
            return
        connection.send(b"".join(wire.packet_out(frame, port, connection.block(1)) for frame in frames))

    # --- inside

    def _connection(self, node: str) -> _Connection:
        if node in self._connections:
            return self._connections[node]
        if node not in self._names.values():
            raise NotFound(f"there is no node {node}")
        raise SwitchGone(f"the switch of node {node} is not connected")

    def _of(self, datapath: Any) -> _Connection | None:
        connection = self._connections.get(self._names.get(datapath.id, ""))
        if connection is None or connection.datapath is not datapath:
            return None
        connection.heard = time.monotonic()
        return connection

    def _place(self, node: str, datapath: Any) -> None:
        connection = _Connection(node, datapath, self._bundles)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "ports is kept for compatibility": it is complete at this moment
            for port in datapath.ports.values():
                connection.ports[_port_name(port)] = _port(port)
        self._connections[node] = connection

    def _weigh(self, node: str, rival: Any) -> None:
        """Whether the one in place lives decides who has it."""
        first = self._connections.get(node)
        lives = first is not None and self._lives(first)
        if rival not in self._rivals.values():  # it has gone meanwhile
            return
        del self._rivals[node]
        if first is not None and not lives and self._connections.get(node) is first:
            LOG.warning("%s says nothing any more, and has connected anew from %s", first, rival.address)
            self._drop(first)
            first.datapath.close()
        if self._names.get(rival.id) == node and node not in self._connections:
            self._place(node, rival)
            self.on_placed(node)
            return
        self._refuse(rival, "rival", node, f"the switch of {node} is connected already, and lives")

    def _lives(self, connection: _Connection) -> bool:
        asked = time.monotonic()
        try:
            self._greet(connection, self._proof)
        except SwitchError:
            return connection.heard > asked and self._connections.get(connection.node) is connection
        return True

    def _greet(self, connection: _Connection, timeout: float) -> None:
        xid = connection.block(1)
        with hub.Timeout(timeout, False):  # to queue it may take as long as the switch takes nothing
            self._run(connection, xid, xid, [wire.barrier(xid)], timeout)
            return
        raise SwitchTimeout(f"{connection} did not answer within {timeout:g} s")

    def _leave_alone(self, datapath: Any) -> None:
        if len(self._strangers) < STRANGERS:
            self._strangers.append(datapath)
            LOG.info("switch %016x (%s) is not in the topology: left alone", datapath.id, datapath.address)
            return
        self._refuse(
            datapath, "unknown", "", f"switch {datapath.id:016x} is in no topology, and {STRANGERS} such are here"
        )

    def _refuse(self, datapath: Any, reason: Reason, node: str, message: str) -> None:
        self.refusals.note(reason, datapath.address, message, node)
        datapath.close()

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.node, None)
        for request in connection.requests.values():
            request.gone = True
            request.done.set()

    def _run(
        self, connection: _Connection, first: int, last: int, messages: Iterable[bytes], timeout: float | None = None
    ) -> _Request:
        """Sends the messages and waits for the reply to ``last``: a dump's own, or that of a barrier put at the end."""
        timeout = self._timeout if timeout is None else timeout
        request = _Request(first, last)
        connection.requests[last] = request
        try:
            # to queue it takes as long as the switch takes nothing
            with hub.Timeout(timeout, SwitchTimeout(f"{connection} took nothing for {timeout:g} s")):
                for batch in _batches(messages):
                    connection.send(batch)
                    hub.sleep(0)
                if last != first:
                    connection.send(wire.barrier(last))
            if not request.done.wait(timeout):
                raise SwitchTimeout(f"{connection} did not answer within {timeout:g} s")
            if request.gone:
                raise SwitchGone(f"{connection} closed its connection")
            return request
        finally:
            connection.requests.pop(last, None)

    def _on_error(self, connection: _Connection, message: Any) -> None:
        for request in connection.requests.values():
            if request.first <= message.xid <= request.last:
                request.errors.append((message.xid, _describe(message), _is_unknown(message)))
                if message.xid == request.last:  # no other reply will come
                    request.done.set()
                return


def _bundle(bundle: int, changes: Sequence[Change]) -> Iterator[bytes]:
    yield wire.bundle_open(bundle, bundle)
    for xid, change in enumerate(changes, bundle + 1):
        yield wire.bundle_add(bundle, wire.encode_change(change, xid), xid)


def _batches(messages: Iterable[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    for message in messages:
        batch.append(message)
        if len(batch) == CHUNK:
            yield b"".join(batch)
            batch.clear()
    if batch:
        yield b"".join(batch)


def _raise_errors(connection: _Connection, request: _Request, changes: Sequence[Change], first: int) -> None:
    if not request.errors:
        return
    xid, error, _ = request.errors[0]
    index = xid - first
    what = f"{changes[index].verb} {changes[index].flow}" if 0 <= index < len(changes) else "the bundle"
    raise SwitchError(f"{connection} refused a change: {error}: {what}")


def _describe(message: Any) -> str:
    if message.type == ofproto_v1_3.OFPET_EXPERIMENTER:
        return f"experimenter error {message.exp_type} of {message.experimenter:#x}"
    return str(ofproto_v1_3.ofp_error_code_to_str(message.type, message.code))


def _is_unknown(message: Any) -> bool:
    """Whether the switch says that it does not know this kind of message (OpenFlow 1.3.5, section 7.4.4)."""
    return message.type == ofproto_v1_3.OFPET_BAD_REQUEST and message.code in (
        ofproto_v1_3.OFPBRC_BAD_TYPE,
        ofproto_v1_3.OFPBRC_BAD_EXPERIMENTER,
        ofproto_v1_3.OFPBRC_BAD_EXP_TYPE,
    )


def _port_name(port: Any) -> str:
    return str(port.name.decode(errors="replace"))


def _port(port: Any) -> Port:
    down = port.config & ofproto_v1_3.OFPPC_PORT_DOWN or port.state & ofproto_v1_3.OFPPS_LINK_DOWN
    # Open vSwitch takes LIVE away from a tunnel whose BFD session is down; the link itself stays up.
    return Port(port.port_no, not down and bool(port.state & ofproto_v1_3.OFPPS_LIVE))
