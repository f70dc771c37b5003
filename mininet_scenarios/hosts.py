"""Real hosts given by a topology file, for scenarios that else run in the lab: the same calls, over SSH.

    with Hosts("my-hosts.yaml") as hosts:
        hosts.exec("edge1", ["podman", "ps"])

The controller is a ``ryu-manager`` of this checkout on this machine. Nothing is installed on the hosts, and their links
are taken as they are.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coat_ryu.config import parse_topology
from coat_ryu.errors import TopologyError
from coat_ryu.model import Node
from coat_ryu.ssh import Login
from mininet_scenarios.controller import CHECKOUT, CONFIG
from mininet_scenarios.experiment import Controller, Refused
from mininet_scenarios.lab import LabError

HEALTHY_TIMEOUT = 120.0
LOG_LINES = 20
OPEN = {"trust_loopback": "true", "openflow_open": "true"}
"""A campaign's controller lives for the campaign alone, between hosts that are for it alone (docs/paper.md)."""


class Hosts:
    """``options`` are further options of the controller's ``[coat]`` group, ``progress`` is told lines of text."""

    def __init__(
        self,
        topology: Path | str,
        *,
        options: dict[str, str] | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.topology = Path(topology).absolute()
        try:
            text = self.topology.read_text()
        except OSError as error:
            raise TopologyError(f"{self.topology}: {error.strerror}") from None
        self._nodes = {node.name: node for node in parse_topology(text, str(self.topology)).nodes}
        self._options = options or {}
        self._progress = progress
        self._folder = tempfile.TemporaryDirectory(prefix="coat-hosts-")
        self._log = Path(self._folder.name) / "controller.log"
        self._manager: subprocess.Popen[bytes] | None = None
        self._rest_port = 0

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> Self:
        """Starts the controller and waits for its /healthz. Raises LabError with the end of its log."""
        self._progress(f"starting the controller for {', '.join(self._nodes)}")
        config = Path(self._folder.name) / "coat.conf"
        self._rest_port = _free_port()
        journal = Path(self._folder.name) / "journal.db"
        options = {"topology": self.topology, "journal": journal, **OPEN, **self._options}
        lines = "\n".join(f"{key} = {value}" for key, value in options.items())
        address = _our_address(next(iter(self._nodes.values())))
        text = CONFIG.format(address=address, options=lines)
        config.write_text(text.replace("wsapi_port = 8080", f"wsapi_port = {self._rest_port}"))
        command = [str(Path(sys.prefix, "bin", "ryu-manager")), "--config-file", str(config), "coat_ryu.app"]
        with self._log.open("wb") as log:
            self._manager = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=CHECKOUT)
        try:
            self._wait_until_healthy()
        except BaseException:
            self.down()
            raise
        return self

    def _wait_until_healthy(self) -> None:
        assert self._manager is not None
        give_up = time.monotonic() + HEALTHY_TIMEOUT
        while not self._healthy():
            if self._manager.poll() is not None or time.monotonic() > give_up:
                tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])
                raise LabError(f"the controller is not healthy; its log ends:\n{tail}")
            time.sleep(0.3)

    def _healthy(self) -> bool:
        try:
            Controller(self.rest).get("/healthz")
        except (OSError, Refused):
            return False
        return True

    def down(self) -> None:
        """Ends the controller. The hosts keep what it made there."""
        if self._manager is not None:
            self._manager.terminate()
            self._manager.wait(30)
            self._manager = None
        self._folder.cleanup()

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self._rest_port}"

    @property
    def hosts(self) -> list[str]:
        return list(self._nodes)

    def address(self, host: str) -> str:
        return str(self._node(host).address)

    def login(self, host: str) -> dict[str, Any]:
        return asdict(Login.of(self._node(host), self._options.get("ssh_key")))

    def _node(self, host: str) -> Node:
        if host not in self._nodes:
            raise LabError(f"there is no host {host!r}; there are: {', '.join(self._nodes)}")
        return self._nodes[host]

    def beside_controller(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def argv(self, host: str, argv: Sequence[str]) -> list[str]:
        """The machine's command that runs ``argv`` on a host. Raises LabError."""
        return [sys.executable, "-m", "mininet_scenarios.over_ssh", json.dumps(self.login(host)), *argv]

    def exec(
        self, host: str, argv: Sequence[str], *, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """As Lab's. Standard input is empty unless it is given."""
        defaults: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "cwd": CHECKOUT}
        if "input" not in options:
            defaults["stdin"] = subprocess.DEVNULL
        return subprocess.run(self.argv(host, argv), timeout=timeout, **{**defaults, **options})

    def popen(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """As Lab's. Standard input is empty unless it is given."""
        return subprocess.Popen(self.argv(host, argv), cwd=CHECKOUT, **{"stdin": subprocess.DEVNULL, **options})


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _our_address(node: Node) -> str:
    """The address of this machine that a login to a node comes from, where its switch finds us."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((Login.of(node).host, 9))  # connecting a datagram socket sends nothing
        return str(probe.getsockname()[0])
