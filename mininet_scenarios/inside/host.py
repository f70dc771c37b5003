"""A Mininet host that is a whole edge host: its own root file system, processes, Open vSwitch, Podman and sshd."""

import contextlib
import shutil
import subprocess
import time
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from mininet.node import Host

CODE = Path("/usr/share/coat-lab/code/mininet_scenarios")
LOWER = Path("/usr/share/coat-lab/lower")  # the cached root file system, as the lab sees it
STATE = Path("/usr/share/coat-lab/state")  # the lab's state directory on the machine
CGROUPS = Path("/sys/fs/cgroup")
WORK = Path("/srv")
IMAGE_STORE = Path("/usr/share/coat-lab/image-store")
ARCHIVES = Path("/usr/share/coat-lab/images")
INIT = "usr/share/coat-lab/init.py"

# br-phy carries the host's address where Open vSwitch runs in user space; see Node.start_switch.
PHYSICAL_BRIDGE = "br-phy"

SSHD_CONFIG = """\
Port {port}
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxSessions 100
MaxStartups 100
Subsystem sftp internal-sftp
"""

CONTAINERS_CONF = """\
[containers]
cgroups = "no-conmon"
log_driver = "k8s-file"
netns = "host"
pids_limit = 0

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""

STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"

[storage.options]
additionalimagestores = [{stores}]
"""


def make_key(path: Path, comment: str) -> None:
    """Generate an SSH key pair without a passphrase: ``path`` and ``path``.pub."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True, timeout=30)


class EdgeHost(Host):  # type: ignore[misc]  # Mininet has no types
    """``spec`` is one of the plan's hosts; ``everyone`` maps the names of all hosts to their addresses."""

    def __init__(self, name: str, spec: dict[str, Any], everyone: dict[str, str], **params: Any) -> None:
        self.spec = spec
        self.seed = WORK / f"{name}.seed"
        self._lay_out(name, everyone)
        super().__init__(name, **params)

    def _lay_out(self, name: str, everyone: dict[str, str]) -> None:
        """Write the files in which this host differs from the others; overlay.sh copies them over the rest."""
        stores = f'"{IMAGE_STORE}"' if self.spec["images"] is None else ""
        hosts = "".join(f"{address}\t{host}\n" for host, address in everyone.items())
        self._write(INIT, (CODE / "inside/init.py").read_text())
        self._write("etc/hostname", name + "\n")
        self._write("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n" + hosts)
        self._write("etc/containers/containers.conf", CONTAINERS_CONF)
        self._write("etc/containers/storage.conf", STORAGE_CONF.format(stores=stores))
        self._write("etc/ssh/sshd_config", SSHD_CONFIG.format(port=self.spec["ssh_port"]))
        (self.seed / "root/.ssh").mkdir(parents=True, mode=0o700)
        (self.seed / "root").chmod(0o700)
        shutil.copy(STATE / "id_ed25519.pub", self.seed / "root/.ssh/authorized_keys")
        key = self.seed / "etc/ssh/ssh_host_ed25519_key"
        make_key(key, name)

    def _write(self, path: str, text: str) -> None:
        file = self.seed / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def known_host(self) -> str:
        """This host's line of the known_hosts file (sshd(8))."""
        names = [self.name, self.spec["ssh_host"]]
        if self.spec["ssh_port"] != 22:
            names = [f"[{name}]:{self.spec['ssh_port']}" for name in names]
        key_type, key, _ = (self.seed / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        return f"{','.join(names)} {key_type} {key}\n"

    def _popen(self, cmd: list[str], **params: Any) -> subprocess.Popen[bytes]:
        """Start the host's shell as Mininet asks, but in more namespaces than mnexec makes."""
        if cmd[0] != "mnexec" or self.shell is not None:
            return super()._popen(cmd, **params)  # type: ignore[no-any-return]
        shell = cmd[cmd.index("env") :]
        size = f"{self.spec['disk_mb']}m" if self.spec["disk_mb"] else "50%"
        work = WORK / self.name
        work.mkdir()
        isolate = ["sh", str(CODE / "isolate.sh"), str(CGROUPS / self.name), "init"]
        overlay = ["sh", str(CODE / "overlay.sh"), str(work), str(LOWER), size, str(self.seed)]
        images = [f"{LOWER}{IMAGE_STORE}", str(IMAGE_STORE), "ro"]
        init = ["python3", "-SE", f"/{INIT}", self.name]
        return super()._popen([*isolate, *overlay, *images, "--", *init, *shell], **params)  # type: ignore[no-any-return]

    def startShell(self, mnopts: str | None = None) -> None:  # Mininet's name
        super().startShell(mnopts)
        # Mininet enters the namespaces of self.pid and moves interfaces there: it must be the host's process 1.
        self.pid = _child_in_new_namespace(self.shell.pid)

    def switch_pid(self) -> int | None:
        """The process of this host's ovs-vswitchd, or None while there is none."""
        for pid in (CGROUPS / self.name / "init/cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "ovs-vswitchd\n":
                    return int(pid)
        return None

    def argv(self, *argv: str) -> list[str]:
        """The lab's command that runs a command on the host."""
        return ["sh", str(CODE / "join.sh"), str(CGROUPS / self.name / "init"), str(self.pid), *argv]

    def run(self, *argv: str, timeout: float = 30) -> str:
        """Run a command on the host and return its standard output. Raises RuntimeError, TimeoutExpired."""
        done = subprocess.run(self.argv(*argv), capture_output=True, text=True, check=False, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _run_in_the_end(self, *argv: str, patience: float = 10) -> None:
        """Repeat a command until it succeeds. Raises RuntimeError with the last refusal."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self.run(*argv)
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def boot(self, mtu: int, prefix_length: int, control_prefix_length: int, kernel_datapath: bool) -> None:
        """Start the host's services. Raises RuntimeError with the command that failed."""
        self.run("ip", "link", "set", "eth0", "mtu", str(mtu))
        self.run("mkdir", "--parents", "/run/openvswitch", "/run/sshd", "/run/netns", "/var/log/openvswitch")
        self._start_switch(mtu, prefix_length, kernel_datapath)
        if self.spec["ssh_host"] != self.spec["address"]:
            self._add_login_address(control_prefix_length)
        self.run("/usr/sbin/sshd")
        for image in self.spec["images"] or ():
            archive = LOWER / str(ARCHIVES).lstrip("/") / f"coat-{image}.tar"
            with archive.open("rb") as file:
                load = self.argv("podman", "load", "--quiet")
                subprocess.run(load, stdin=file, stdout=subprocess.DEVNULL, check=True, timeout=120)

    def _start_switch(self, mtu: int, prefix_length: int, kernel_datapath: bool) -> None:
        database = "/etc/openvswitch/conf.db"
        socket = "punix:/run/openvswitch/db.sock"
        self.run("ovsdb-tool", "create", database, "/usr/share/openvswitch/vswitch.ovsschema")
        self.run("ovsdb-server", "--detach", "--no-chdir", "--pidfile", "--log-file", f"--remote={socket}", database)
        self.run("ovs-vsctl", "--no-wait", "init")
        # Without this option each change of any interface makes the userspace datapath forget for a moment where its
        # tunnels end, and frames from them are lost (lib/ovs-router.c, ovs_router_flush). One route is all it needs.
        own_routes = [] if kernel_datapath else ["--disable-system-route"]
        self.run("ovs-vswitchd", "--detach", "--no-chdir", "--pidfile", "--log-file", *own_routes)
        if kernel_datapath:
            return
        # The userspace datapath finds a tunnel's next hop only on a bridge of its own, so eth0 moves into one and the
        # address with it (Documentation/howto/userspace-tunneling in Open vSwitch). The kernel still sees what arrives
        # on eth0: with another MAC, no ARP and no IPv6 there, it answers none of it a second time.
        mac = self.run("cat", "/sys/class/net/eth0/address").strip()
        own = "02" + mac[2:] if not mac.startswith("02") else "06" + mac[2:]
        self.run("ip", "address", "flush", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "arp", "off")
        self.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
        bridge = ["--", "set", "bridge", PHYSICAL_BRIDGE, "datapath_type=netdev", "fail_mode=standalone"]
        # linux-noop: else Open vSwitch removes the qdisc that shapes the link (ovs-vswitchd.conf.db(5), QoS TABLE)
        qos = ["--", "set", "port", "eth0", "qos=@q", "--", "--id=@q", "create", "qos", "type=linux-noop"]
        self.run(
            *["ovs-vsctl", "add-br", PHYSICAL_BRIDGE, *bridge, f"other_config:hwaddr={own}"],
            *["--", "add-port", PHYSICAL_BRIDGE, "eth0", *qos],
        )
        self.run("ip", "link", "set", PHYSICAL_BRIDGE, "mtu", str(mtu), "up")
        self.run("ip", "address", "add", f"{self.spec['address']}/{prefix_length}", "dev", PHYSICAL_BRIDGE)
        underlay = ip_interface(f"{self.spec['address']}/{prefix_length}").network
        route = ["ovs-appctl", "ovs/route/add", str(underlay), PHYSICAL_BRIDGE, f"src={self.spec['address']}"]
        self._run_in_the_end(*route)  # refused until the switch has noticed the bridge's address

    def _add_login_address(self, prefix_length: int) -> None:
        """The kernel's own way in, past a switch in user space, where a message waits behind all that is under way.

        Each of the two interfaces answers for its own address only (ip-sysctl, arp_ignore).
        """
        self.run("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1")
        self.run("ip", "link", "set", "eth0", "arp", "on")
        self.run("ip", "address", "add", f"{self.spec['ssh_host']}/{prefix_length}", "dev", "eth0")


def _child_in_new_namespace(pid: int, timeout: float = 10) -> int:
    """The pid of the only child of ``pid``, which unshare --fork has made."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid:
                    return int(stat.parent.name)
        time.sleep(0.01)
    raise TimeoutError(f"process {pid} has made no child in {timeout:.0f} s")
