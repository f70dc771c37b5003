"""A ryu-manager process with the driver app in it, and calls to its fabric."""

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coat_ryu.model import Binding, Topology
from mininet_scenarios.private_ovs import die_with_parent
from tests.switch import driver

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 30.0


class Controller:
    """``options`` go to the Fabric, ``arguments`` to ryu-manager; with ``bindings`` it is ready from the start."""

    def __init__(
        self,
        directory: Path,
        port: int,
        topology: Topology,
        bindings: Iterable[Binding] = (),
        arguments: Sequence[str] = (),
        crl: Path | None = None,
        **options: Any,
    ) -> None:
        self._directory, self._port, self._arguments = directory, port, arguments
        self._crl = {"COAT_DRIVER_CRL": str(crl)} if crl else {}
        self._setup = pickle.dumps((topology, options, list(bindings)))
        self._process: subprocess.Popen[bytes] | None = None
        self._peer: socket.socket | None = None

    def start(self) -> "Controller":
        setup, path = self._directory / "setup.pickle", self._directory / "driver.sock"
        setup.write_bytes(self._setup)
        path.unlink(missing_ok=True)
        environment = {
            **os.environ,
            **self._crl,
            "COAT_DRIVER_SETUP": str(setup),
            "COAT_DRIVER_SOCKET": str(path),
            "PYTHONPATH": str(ROOT),
        }
        manager = Path(sys.executable).with_name("ryu-manager")
        argv = [sys.executable, str(manager), "--ofp-listen-host=127.0.0.1", f"--ofp-tcp-listen-port={self._port}"]
        with (self._directory / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*argv, *self._arguments, str(ROOT / "tests/switch/driver.py")],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + START_TIMEOUT
        self._peer = socket.socket(socket.AF_UNIX)
        self._peer.settimeout(120)
        while self._peer.connect_ex(str(path)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"ryu-manager did not start:\n{self.log()}")
            time.sleep(0.05)
        return self

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.call(name, *args, **kwargs)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the fabric (``settle``, ``board.read``); raises what it raised."""
        assert self._peer
        driver.send(self._peer, (method, args, kwargs))
        good, value = driver.receive(self._peer)
        if not good:
            raise value
        return value

    def kill(self) -> None:
        """As a crash does it: no goodbye."""
        if self._peer:
            self._peer.close()
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        return (self._directory / "controller.log").read_text()
