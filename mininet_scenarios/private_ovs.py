"""A private Open vSwitch: real ovsdb-server and ovs-vswitchd with dummy ports, in a directory of their own.

The binaries come from the lab's root file system and run with that system's loader and libraries, so that neither root
nor an installed Open vSwitch is needed. ``--enable-dummy=override`` makes every port a dummy: frames are put in with
``receive`` and counted where they come out.
"""

import ctypes
import os
import re
import signal
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOMS = ("usr/lib/openvswitch-switch", "usr/sbin", "usr/bin")
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu")
STOP_TIMEOUT = 10.0


def die_with_parent() -> None:
    """For ``preexec_fn``: a parent that is killed with -9 leaves no process behind (PR_SET_PDEATHSIG in prctl(2))."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class PrivateOvs:
    def __init__(self, rootfs: Path, directory: Path) -> None:
        self._rootfs, self.directory = rootfs, directory
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._loader = next(rootfs.glob("usr/lib*/ld-linux-*.so.*"))
        self._libraries = ":".join(str(rootfs / path) for path in LIBRARIES if (rootfs / path).is_dir())
        rooms = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")
        self._environment = {**os.environ, **{room: str(directory) for room in rooms}}

    def start(self) -> None:
        schema = self._rootfs / "usr/share/openvswitch/vswitch.ovsschema"
        self.run("ovsdb-tool", "create", str(self.directory / "conf.db"), str(schema))
        database = f"unix:{self.directory}/db.sock"
        self._daemon("ovsdb-server", f"--remote=p{database}", str(self.directory / "conf.db"))
        self.vsctl("--no-wait", "init")
        self._daemon("ovs-vswitchd", "--enable-dummy=override", "--disable-system", "--disable-system-route", database)
        self.vsctl("show")

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(STOP_TIMEOUT)
        self._daemons.clear()

    def run(self, program: str, *args: str) -> str:
        """What the program printed; a failure fails the test with what it said."""
        argv = self._argv(program, args)
        done = subprocess.run(argv, env=self._environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise AssertionError(f"{program} {' '.join(args)}: {done.stderr}")
        return done.stdout

    def vsctl(self, *args: str) -> str:
        return self.run("ovs-vsctl", "--timeout=30", "--retry", *args)

    def ofctl(self, *args: str) -> str:
        return self.run("ovs-ofctl", "-OOpenFlow13", *args)

    def appctl(self, *args: str) -> str:
        return self.run("ovs-appctl", *args)

    def add_bridge(self, bridge: str, dpid: str, ports: Mapping[str, str], controller: str | None = None) -> None:
        """A bridge as the node hook makes it; ``ports`` gives each port's type (``""`` is an ordinary one)."""
        self.vsctl(*self.bridge(bridge, dpid, ports, controller))

    def bridge(self, bridge: str, dpid: str, ports: Mapping[str, str], controller: str | None = None) -> list[str]:
        """The commands of ``add_bridge``, to be joined with others by ``--``."""
        commands = ["add-br", bridge, "--", "set", "bridge", bridge, f"other-config:datapath-id={dpid}"]
        commands += ["fail-mode=secure", "protocols=OpenFlow13"]
        for port, kind in ports.items():
            commands += ["--", *self._port(bridge, port, kind)]
        if controller:
            commands += ["--", "set-controller", bridge, controller]
            commands += ["--", "set", "controller", bridge, "max-backoff=1000"]
        return commands

    def add_port(self, bridge: str, port: str, kind: str = "") -> None:
        self.vsctl(*self._port(bridge, port, kind))

    @staticmethod
    def _port(bridge: str, port: str, kind: str) -> list[str]:
        command = ["add-port", bridge, port]
        if kind:
            command += ["--", "set", "interface", port, f"type={kind}"]
        if kind == "vxlan":
            command += ["options:key=flow", "options:remote_ip=10.9.0.1"]
        return command

    def lose_controller(self, bridge: str) -> None:
        """Makes a bridge look for its controller in vain. (To take away its last controller would flush its flows.)"""
        self.vsctl("set-controller", bridge, "tcp:127.0.0.1:1")

    def ofport(self, port: str) -> int:
        return int(self.vsctl("get", "interface", port, "ofport"))

    def receive(self, port: str, frame: bytes) -> None:
        """A frame comes in at a dummy port."""
        self.appctl("netdev-dummy/receive", port, frame.hex())

    @contextmanager
    def captured(self, port: str) -> Iterator[Callable[[], list[bytes]]]:
        """The frames that go out of a dummy port meanwhile."""
        path = self.directory / f"{uuid.uuid4()}.pcap"
        self.vsctl("set", "interface", port, f"options:tx_pcap={path}")
        try:
            yield lambda: _frames_of(path)
        finally:
            self.vsctl("remove", "interface", port, "options", "tx_pcap")

    def exchange(self, port: str, frame: bytes) -> list[bytes]:
        """What comes out of a port within half a second after a frame was put in there."""
        with self.captured(port) as out:
            self.receive(port, frame)
            deadline = time.monotonic() + 0.5
            while not out() and time.monotonic() < deadline:
                time.sleep(0.02)
            return out()

    def sent(self, port: str) -> int:
        """Frames that have gone out of a port."""
        return int(self.vsctl("get", "interface", port, "statistics:tx_packets"))

    def flows(self, bridge: str, *filters: str) -> list[str]:
        """The entries of a bridge as text, sorted, without what changes by itself."""
        lines = self.ofctl("--no-stats", "dump-flows", bridge, *filters).splitlines()
        return sorted(line.strip() for line in lines if "actions=" in line)

    def trace(self, bridge: str, flow: str) -> str:
        """What the bridge would do with a frame: the whole output of ``ofproto/trace``."""
        return self.appctl("ofproto/trace", bridge, flow)

    def counters(self, bridge: str, *filters: str) -> dict[str, tuple[int, float]]:
        """Packets and age (s) of every entry, by its table, priority and match."""
        found: dict[str, tuple[int, float]] = {}
        pattern = re.compile(r"cookie=(\S+), duration=([\d.]+)s, table=(\d+), n_packets=(\d+), n_bytes=\d+, (\S+)")
        for line in self.ofctl("dump-flows", bridge, *filters).splitlines():
            if entry := pattern.search(line):
                _, age, table, packets, match = entry.groups()
                found[f"{table} {match}"] = (int(packets), float(age))
        return found

    def _argv(self, program: str, args: Sequence[str]) -> list[str]:
        path = next(self._rootfs / room / program for room in ROOMS if (self._rootfs / room / program).is_file())
        return [str(self._loader), "--library-path", self._libraries, str(path), *args]

    def _daemon(self, program: str, *args: str) -> None:
        pidfile = self.directory / f"{program}.pid"
        argv = self._argv(program, ["--no-chdir", f"--pidfile={pidfile}", f"--log-file={program}.log", *args])
        argv[-len(args) - 1] = f"--log-file={self.directory / program}.log"
        log = (self.directory / f"{program}.out").open("wb")
        # A session of its own: Ctrl-C in the terminal is for the caller, which then stops it in order.
        daemon = subprocess.Popen(
            argv, env=self._environment, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent
        )
        log.close()
        self._daemons.append(daemon)
        deadline = time.monotonic() + 30
        while not pidfile.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{program} did not start: see {self.directory}")
            time.sleep(0.02)


def _frames_of(pcap: Path) -> list[bytes]:
    """The frames in a capture file (libpcap's format: a header of 24 bytes, and one of 16 for each frame)."""
    data, frames = pcap.read_bytes() if pcap.exists() else b"", []
    offset = 24
    while offset + 16 <= len(data):
        (length,) = struct.unpack_from("=I", data, offset + 8)
        frames.append(data[offset + 16 : offset + 16 + length])
        offset += 16 + length
    return frames
