"""A Ryu app around a Fabric that does what a test tells it, for ``ryu-manager tests/switch/driver.py``.

The event handlers are those of ``coat_ryu.app``. Requests come over a Unix socket as pickles, (method, args, kwargs)
and are answered with (True, result) or (False, exception); every connection has its own greenthread.
"""

import os
import pickle
import socket
import struct
from typing import Any

from ryu import cfg
from ryu.lib import hub

from coat_ryu.events import FabricApp
from coat_ryu.fabric import Fabric, Loan
from coat_ryu.listen import replace_servers
from coat_ryu.refusals import Refusals
from coat_ryu.southbound import Door, files
from coat_ryu.tls import Keys, Tls

REFUSALS = Refusals()
KEYS = Keys(files(cfg.CONF, os.environ.get("COAT_DRIVER_CRL")))
replace_servers(Keys(Tls()), Door(KEYS, REFUSALS))  # as the application does

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


class Driver(FabricApp):
    def start(self):
        with open(os.environ["COAT_DRIVER_SETUP"], "rb") as file:
            topology, options, bindings = pickle.load(file)
        self.fabric = Fabric(topology, **options)
        self.fabric.board.refusals = REFUSALS
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
                if isinstance(result, Loan):
                    self.fabric.loan = result  # type: ignore[attr-defined]
                    setattr(self.fabric, f"loan_of_{args[0]}", result)
                    result = {part: getattr(result, part) for part in ("messages", "sift", "unsift")}
                send(peer, (True, None if hasattr(result, "wait") else result))
            except Exception as error:
                send(peer, (False, error))
