"""A Ryu app around a Fabric that does what a test tells it, for ``ryu-manager tests/switch/driver.py``.

The event handlers are those of ``coat_ryu.app``. Requests come over a Unix socket as pickles, (method, args, kwargs)
and are answered with (True, result) or (False, exception); every connection has its own greenthread.
"""

import os
import pickle
import socket
import struct
from typing import Any

from ryu.base import app_manager
from ryu.controller import ofp_event
from ryu.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from ryu.lib import hub
from ryu.ofproto import ofproto_v1_3

from coat_ryu.fabric import Fabric

LENGTH = struct.Struct("!I")


def receive(peer: socket.socket) -> Any:
    """The next pickle. Raises EOFError at the end."""
    stream = peer.makefile("rb")
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    return pickle.loads(stream.read(LENGTH.unpack(head)[0]))


def send(peer: socket.socket, value: object) -> None:
    data = pickle.dumps(value)
    peer.sendall(LENGTH.pack(len(data)) + data)


class Driver(app_manager.RyuApp):  # type: ignore[misc]
    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]

    def start(self):
        with open(os.environ["COAT_DRIVER_SETUP"], "rb") as file:
            topology, options, bindings = pickle.load(file)
        self.fabric = Fabric(topology, **options)
        self.fabric.start()
        for binding in bindings:
            self.fabric.bind(binding)
        if bindings:
            self.fabric.ready()
        hub.spawn(self._serve, os.environ["COAT_DRIVER_SOCKET"])
        return super().start()

    def _serve(self, path):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        while True:
            hub.spawn(self._answer, listener.accept()[0])

    def _answer(self, peer):
        while True:
            try:
                method, args, kwargs = receive(peer)
            except (EOFError, OSError):
                return
            try:
                target = self.fabric
                for name in method.split("."):
                    target = getattr(target, name)
                result = target(*args, **kwargs) if callable(target) else target
                send(peer, (True, None if hasattr(result, "wait") else result))
            except Exception as error:
                send(peer, (False, error))

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])
    def on_state(self, event):
        self.fabric.on_state(event)

    @set_ev_cls(ofp_event.EventOFPPortStatus, MAIN_DISPATCHER)
    def on_port(self, event):
        self.fabric.on_port(event)

    @set_ev_cls(ofp_event.EventOFPFlowRemoved, MAIN_DISPATCHER)
    def on_flow_removed(self, event):
        self.fabric.on_flow_removed(event)

    @set_ev_cls(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)
    def on_packet_in(self, event):
        self.fabric.on_packet_in(event)

    @set_ev_cls(
        [ofp_event.EventOFPBarrierReply, ofp_event.EventOFPErrorMsg, ofp_event.EventOFPFlowStatsReply],
        MAIN_DISPATCHER,
    )
    def on_reply(self, event):
        self.fabric.on_reply(event)
