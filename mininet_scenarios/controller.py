"""The lab's controller: a `ryu-manager` of the machine's Python environment in the lab's network namespace."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mininet_scenarios.supervisor import Order

CHECKOUT = Path(__file__).parent.parent
HEALTHY_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0

CONFIG = """\
[DEFAULT]
ofp_listen_host = {address}
ofp_tcp_listen_port = 6653
wsapi_host = 127.0.0.1
wsapi_port = 8080

[coat]
{options}
"""


class ControllerFailed(Exception):
    """The controller did not start; the message holds the end of its log."""


class Controller:
    """Starts and ends the process. ``pid`` is whose network it uses, ``rest`` its base URL as the machine sees it."""

    def __init__(self, order: "Order", folder: Path, pid: int, rest: str) -> None:
        self._network = f"/proc/{pid}/ns/net"
        self._rest = rest
        self._log = folder / "controller.log"
        self._config = folder / "coat.conf"
        self._process: asyncio.subprocess.Process | None = None
        # Where there is a sitecustomize.py in it, the process begins with that (``clocks``).
        path = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        options = {
            "topology": order.topology,
            "ssh_key": folder / "id_ed25519",
            "ssh_known_hosts": folder / "known_hosts",
            "journal": folder / "journal.db",
            "trust_loopback": True,  # a lab answers to plain curl
            "openflow_open": True,  # its network is a namespace of its own
            **order.options,
        }
        lines = "\n".join(f"{key} = {value}" for key, value in options.items())
        self._config.write_text(CONFIG.format(address=order.plan["controller"], options=lines))

    @property
    def pid(self) -> int | None:
        """The process's number while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it, unless it runs, and wait until ``GET /healthz`` is 200. Raises ControllerFailed."""
        if self.pid is not None:
            return
        ryu_manager = str(Path(sys.prefix, "bin", "ryu-manager"))
        command = [ryu_manager, "--config-file", str(self._config), "coat_ryu.app"]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self._network}", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
                env=self._environment,
            )
        deadline = time.monotonic() + HEALTHY_TIMEOUT
        while not await self._healthy():
            if self._process.returncode is not None:
                raise ControllerFailed(f"ryu-manager ended with status {self._process.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise ControllerFailed(f"/healthz not 200 in {HEALTHY_TIMEOUT:.0f} s; the log ends:\n{self._tail()}")
            await asyncio.sleep(0.2)

    async def stop(self, number: signal.Signals) -> None:
        """End it with that signal, and with SIGKILL where that does not do."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _healthy(self) -> bool:
        host, port = self._rest.removeprefix("http://").split(":")
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                status = await reader.readline()
                writer.close()
        except (OSError, TimeoutError):
            return False
        return status.split()[1:2] == [b"200"]

    def _tail(self, lines: int = 30) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
