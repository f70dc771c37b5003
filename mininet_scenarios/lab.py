"""A lab of Mininet hosts with the controller, from Python.

    with Lab("topologies/paper.yaml", name="mine") as lab:
        lab.exec("edge1", ["podman", "ps"])
        requests.get(lab.rest + "/v1.0/nodes")

A lab made like this ends with the process that made it, whatever ends that. `Lab.detach` lets it live on, `Lab.attach`
finds it again.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coat_ryu.config import parse_topology
from coat_ryu.errors import TopologyError
from mininet_scenarios import images, rootfs, state
from mininet_scenarios.plan import make_plan, parse_section
from mininet_scenarios.supervisor import Order

CHECKOUT = Path(__file__).parent.parent
DEFAULT_NAME = "coat"
DEFAULT_TOPOLOGY = CHECKOUT / "topologies" / "paper.yaml"
UP_TIMEOUT = 180.0
DOWN_TIMEOUT = 60.0
JOIN = Path(__file__).with_name("join.sh")


class LabError(Exception):
    """The lab could not do what it was asked; the message is for a person."""


class Lab:
    """A lab, up or not. ``topology`` is a file; ``rest_port`` 0 takes a free port; ``controller`` False leaves it out.

    ``options`` are further options of the controller's ``[coat]`` group. ``progress`` is called with lines of text.
    """

    def __init__(
        self,
        topology: Path | str = DEFAULT_TOPOLOGY,
        *,
        name: str = DEFAULT_NAME,
        rest_port: int = 0,
        controller: bool = True,
        options: dict[str, str] | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = name
        self.topology = Path(topology).absolute()
        self._rest_port = rest_port
        self._controller = controller
        self._options = options or {}
        self._progress = progress
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._state: state.LabState | None = None

    @classmethod
    def attach(cls, name: str = DEFAULT_NAME) -> "Lab":
        """A lab that is up. Raises LabError."""
        found = state.read(name)
        if found is None:
            raise LabError(f"lab {name!r} is not up; ./coat-lab up --name {name} brings it up")
        lab = cls(found.topology, name=name)
        lab._state = found
        return lab

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> Self:
        """Bring it up and wait for the controller's /healthz. Raises LabError, TopologyError, RootfsError."""
        if os.geteuid() != 0:
            raise LabError("the lab needs root: it makes network namespaces and mounts")
        order = self._order()
        command = [sys.executable, "-m", "mininet_scenarios.supervisor"]
        self._supervisor = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
            start_new_session=True,  # Ctrl-C is for us; the supervisor is told by its standard input
        )
        try:
            self._send(json.dumps(asdict(order)))
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        self._state = state.read(self.name)
        return self

    def _order(self) -> Order:
        try:
            text = self.topology.read_text()
        except OSError as error:
            raise TopologyError(f"{self.topology}: {error.strerror}") from None
        source = str(self.topology)
        topology = parse_topology(text, source)
        section = parse_section(topology, source, tuple(image.name for image in images.IMAGES))
        plan = make_plan(topology, section, source)
        root = rootfs.ensure(self._progress)
        return Order(self.name, source, plan, str(root), self._rest_port, self._controller, self._options)

    def _send(self, line: str) -> None:
        assert self._supervisor is not None and self._supervisor.stdin is not None
        self._supervisor.stdin.write(line.encode() + b"\n")
        self._supervisor.stdin.flush()

    def _wait_until_ready(self) -> None:
        # The supervisor has a timeout of its own and always ends with one of the two words.
        assert self._supervisor is not None and self._supervisor.stdout is not None
        for line in self._supervisor.stdout:
            message = json.loads(line)
            if "error" in message:
                raise LabError(message["error"])
            if "ready" in message:
                return
            self._progress(message["progress"])
        raise LabError(f"the lab's supervisor ended with status {self._supervisor.wait()}")

    def detach(self) -> None:
        """Let the lab outlive this process."""
        assert self._supervisor is not None
        self._send("detach")
        self._supervisor = None

    def down(self) -> None:
        """Remove the lab and all that is left of it, also of one that was killed. Harmless when there is none."""
        if self._supervisor is None:
            with suppress(LabError):
                self._request("down")
            _wait_for(lambda: not state.is_up(self.name), DOWN_TIMEOUT, f"lab {self.name!r} to end")
        else:
            self._end()
        state.clean_abandoned()
        self._state = None

    def _end(self) -> None:
        """End the supervisor that this process has started, and with it the lab."""
        assert self._supervisor is not None and self._supervisor.stdin is not None
        with suppress(BrokenPipeError):
            self._supervisor.stdin.close()
        try:
            self._supervisor.wait(DOWN_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        if self._supervisor.stdout is not None:
            self._supervisor.stdout.close()
        self._supervisor = None

    @property
    def state(self) -> state.LabState:
        """What is known of the lab that is up. Raises LabError."""
        if self._state is None:
            raise LabError(f"lab {self.name!r} is not up")
        return self._state

    @property
    def rest(self) -> str:
        """The base URL of the controller's REST API, without a slash at the end."""
        return self.state.rest

    @property
    def hosts(self) -> list[str]:
        return list(self.state.hosts)

    def address(self, host: str) -> str:
        """The host's on the underlay."""
        return self.state.hosts[host].address

    def login(self, host: str) -> dict[str, Any]:
        """How the controller logs in there: the fields of ``coat_ryu.ssh.Login``."""
        found = self.state.hosts[host]
        key, known = (str(self.folder / name) for name in ("id_ed25519", "known_hosts"))
        return {"host": found.ssh_host, "port": found.ssh_port, "user": "root", "key": key, "known_hosts": known}

    def beside_controller(self, argv: Sequence[str]) -> list[str]:
        """A command of this machine that runs in the controller's network."""
        return ["nsenter", f"--net=/proc/{self.state.pid}/ns/net", "--", *argv]

    @property
    def folder(self) -> Path:
        """The state directory: controller.log, lab.log, coat.conf, id_ed25519, known_hosts, journal.db."""
        return state.directory(self.name)

    def argv(self, host: str, argv: Sequence[str]) -> list[str]:
        """The machine's command that runs ``argv`` on a host. Raises LabError."""
        hosts = self.state.hosts
        if host not in hosts:
            raise LabError(f"there is no host {host!r}; there are: {', '.join(hosts)}")
        return ["sh", str(JOIN), hosts[host].cgroup, str(hosts[host].pid), *argv]

    def exec(
        self, host: str, argv: Sequence[str], *, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host and wait. ``options`` are subprocess.run's; without any, output is captured as text.

        Raises CalledProcessError (unless ``check=False``), TimeoutExpired.
        """
        defaults: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
        if "stdout" in options or "stderr" in options:
            defaults["capture_output"] = False
        return subprocess.run(self.argv(host, argv), timeout=timeout, **{**defaults, **options})

    def popen(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command on a host, with subprocess.Popen's options. It gets SIGTERM when the process here ends."""
        return subprocess.Popen(self.argv(host, argv), **options)

    def kill_host(self, host: str) -> None:
        """Lose a host for good, as by a power cut: all its processes and namespaces go at once."""
        os.kill(self.state.hosts[host].pid, signal.SIGKILL)

    def controller_pid(self) -> int | None:
        """The running controller's process, as the machine numbers it."""
        pid = self._request("status")["controller"]
        return int(pid) if pid is not None else None

    def start_controller(self) -> None:
        """Start it if it does not run and wait until it is healthy. Raises LabError with the end of its log."""
        self._request("controller-start")

    def stop_controller(self) -> None:
        """End it in order (SIGTERM)."""
        self._request("controller-stop")

    def kill_controller(self) -> None:
        """End it at once (SIGKILL)."""
        self._request("controller-kill")

    def _request(self, what: str, timeout: float = 90) -> dict[str, Any]:
        """Ask the supervisor. Raises LabError."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            try:
                connection.connect(str(self.folder / "control.sock"))
                connection.sendall(json.dumps({"do": what}).encode() + b"\n")
                answer = json.loads(connection.makefile().readline() or "{}")
            except OSError as error:
                raise LabError(f"lab {self.name!r} does not answer: {error}") from None
        if "error" in answer:
            raise LabError(answer["error"])
        return dict(answer)


def _wait_for(condition: Callable[[], bool], timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.05)
