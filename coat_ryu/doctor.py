"""What a machine lacks to be a node, and the line that mends it: decided from what ``node/checkup.sh`` found there.

Facts are texts by name; what the machine does not have is not among them. What packages a distribution has, and in
which versions, was looked up in its archive.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from coat_ryu.preflight import CRIU_LEAST, PODMAN_LEAST

State = Literal["ok", "missing", "too old", "wrong"]

PYTHON_LEAST = (3, 11)
CLOCK_LIMIT = 3600.0
"""Seconds. The keys of a transfer are good for a day before and after the controller's now; this is well inside."""

CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_MKNOD": 27,
}
"""Those that Podman, CRIU and the hook use (linux/capability.h)."""

DEBIAN_12, DEBIAN_13, UBUNTU_24 = "debian 12", "debian 13", "ubuntu 24.04"
SUPPORTED = (DEBIAN_12, DEBIAN_13, UBUNTU_24)

_FORKY = "criu libcompel1 libnl-3-200 libnl-route-3-200 libnl-genl-3-200 python3-pycriu"
_CRIU_13 = (
    "printf 'Types: deb\\nURIs: %s\\nSuites: forky\\nComponents: main\\n"
    "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\\n' "
    "\"$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)\" > /etc/apt/sources.list.d/forky.sources && "
    "printf 'Package: *\\nPin: release n=forky\\nPin-Priority: 100\\n' > /etc/apt/preferences.d/forky && "
    f"apt-get update && apt-get install --yes {' '.join(name + '/forky' for name in _FORKY.split())}"
)
_CRIU_ELSEWHERE = (
    "CRIU's maintainers build 4.2 for it, https://build.opensuse.org/repositories/devel:tools:criu, repository {}"
    " (not tried by us); else upgrade to Debian 13"
)
CRIU = {
    # Testing's criu wants testing's libc: nothing that may be mixed into Debian 12.
    DEBIAN_12: "Debian 12 has 3.17.1, and no newer one in backports; Debian testing's does not fit Debian 12. "
    + _CRIU_ELSEWHERE.format("Debian_12"),
    DEBIAN_13: _CRIU_13,
    UBUNTU_24: "Ubuntu 24.04 has no criu. " + _CRIU_ELSEWHERE.format("xUbuntu_24.04"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``found`` and ``mend`` may be empty; ``needed`` False: a node does without."""

    name: str
    state: State
    found: str
    purpose: str
    mend: str = ""
    needed: bool = True

    @property
    def bad(self) -> bool:
        return self.needed and self.state != "ok"


REACH = "reach "
PEERS = 32
"""How many others one node of a large topology tries to reach; each is tried by as many."""
ANY_PORT = 49_152
"""Where nobody need listen: a state is sent to a port that the kernel chooses (RFC 6335, section 6)."""
_TRY = """import socket, sys
silent = []
for port in map(int, sys.argv[2:]):
    try: socket.create_connection((sys.argv[1], port), 3).close()
    except ConnectionRefusedError: pass
    except OSError as error: silent.append(f"TCP port {port}: {error}")
print("; ".join(silent) or "ok")"""


def reaching(node: str, doors: Mapping[str, tuple[str, int]]) -> str:
    """What ``checkup.sh`` is followed by on a node of a topology. ``doors``: every node's address and port of SSH."""
    names = sorted(doors)
    at = names.index(node)
    others = (names[at + 1 :] + names[:at])[:PEERS]
    lines = (
        f"say '{REACH}{name}' \"$(limited python3 -c '{_TRY}' {doors[name][0]} {doors[name][1]} {ANY_PORT})\""
        for name in others
    )
    return "".join(f"! has python3 || {line}\n" for line in lines)


def parse(text: str) -> dict[str, str]:
    """The facts in what ``checkup.sh`` prints. Raises ValueError when it is something else."""
    facts = dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    if not {"os", "kernel"} <= facts.keys():
        raise ValueError(f"our script did not run there (a key with a forced command lets no script in): {text[:80]!r}")
    return facts


def judge(facts: dict[str, str], now: float) -> list[Finding]:
    """Every finding, good or bad. ``now`` is the time when the facts came, in seconds since the epoch."""
    system = facts["os"].strip()
    return [
        *_machine(facts, now),
        *_python(facts, system),
        *_podman(facts, system),
        *_criu(facts, system),
        *_network(facts, system),
        _sshd(facts, system),
        *_peers(facts),
    ]


def _peers(facts: dict[str, str]) -> Iterator[Finding]:
    purpose = "states go from node to node, and nodes say whether one that is lost is dead"
    for name, said in facts.items():
        if name.startswith(REACH):
            good = said == "ok"
            mend = "" if good else "open all TCP ports, and UDP port 4789, between the addresses of the nodes"
            yield Finding(name, "ok" if good else "wrong", "" if good else said, purpose, mend)


def _machine(facts: dict[str, str], now: float) -> Iterator[Finding]:
    system = facts["os"].strip()
    known: State = "ok" if system in SUPPORTED else "wrong"
    yield Finding("system", known, facts.get("os_name", system), "what the lines below are for", needed=False)
    root = facts.get("user") == "0"
    yield Finding(
        "root",
        "ok" if root else "wrong",
        "" if root else f"user {facts.get('user')}",
        "namespaces, Podman, CRIU; the rest cannot be judged without it",
        "" if root else "run it as root; over SSH, log in as root by key",
    )
    if root:
        yield from _capabilities(facts)
    yield _kernel(facts)
    yield _cgroup(facts)
    yield _present(facts, "tun", "what is held for a frozen container waits in a TAP", "modprobe tun", "/dev/net/tun")
    yield _present(
        facts,
        "userfaultfd",
        "memory that follows later",
        "a kernel with CONFIG_USERFAULTFD, as the distribution's is",
        needed=False,
    )
    yield _clock(facts, now)


def _capabilities(facts: dict[str, str]) -> Iterator[Finding]:
    """What root may not do, as within a container: of most a node has no use, of CAP_SYS_RESOURCE some containers."""
    try:
        have = int(facts["capabilities"], 16)
    except (KeyError, ValueError):
        yield Finding("capabilities", "wrong", "not known", "namespaces, CRIU; root has them all on a plain machine")
        return
    lacking = [name for name, number in CAPABILITIES.items() if not have >> number & 1]
    purpose = "namespaces, CRIU"
    if lacking == ["CAP_SYS_RESOURCE"]:
        purpose = "containers with processes of other users or groups than root, which else cannot move"
    mend = "give root on it all capabilities (a container: --privileged; a service: CapabilityBoundingSet)"
    found = f"root lacks {', '.join(lacking)}" if lacking else ""
    needed = lacking != ["CAP_SYS_RESOURCE"]
    yield Finding("capabilities", "missing" if lacking else "ok", found, purpose, mend if lacking else "", needed)


def _kernel(facts: dict[str, str]) -> Finding:
    lacking = [
        option
        for fact, option in (
            ("network_namespaces", "CONFIG_NET_NS"),
            ("checkpoint_restore", "CONFIG_CHECKPOINT_RESTORE"),
        )
        if fact not in facts
    ]
    found = facts["kernel"] + (f" without {', '.join(lacking)}" if lacking else "")
    mend = "boot the distribution's own kernel, and look into /proc as it is" if lacking else ""
    return Finding("kernel", "wrong" if lacking else "ok", found, "checkpoints, namespaces", mend)


def _cgroup(facts: dict[str, str]) -> Finding:
    version = facts.get("cgroup") or "none"
    good = version == "v2"
    mend = "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line (GRUB_CMDLINE_LINUX), then update-grub"
    return Finding(
        "cgroup",
        "ok" if good else "missing" if version == "none" else "too old",
        version,
        "the container is frozen by its cgroup; v2 on /sys/fs/cgroup",
        "" if good else f"{mend} and reboot",
    )


def _clock(facts: dict[str, str], now: float) -> Finding:
    try:
        off = float(facts["clock"]) - now
    except (KeyError, ValueError):
        return Finding("clock", "wrong", "not known", "the keys of a transfer are good for a day")
    good = abs(off) < CLOCK_LIMIT
    found = "agrees with this one's" if abs(off) < 2 else f"{off:+.0f} s from this one's"
    mend = "" if good else "apt-get install --yes systemd-timesyncd && timedatectl set-ntp true"
    return Finding("clock", "ok" if good else "wrong", found, "the keys of a transfer are good for a day", mend)


def _python(facts: dict[str, str], system: str) -> Iterator[Finding]:
    mend = _apt(system, "python3")
    yield _versioned("python3", facts.get("python3"), PYTHON_LEAST, "our hook on the node", mend)


def _podman(facts: dict[str, str], system: str) -> Iterator[Finding]:
    yield _versioned("podman", facts.get("podman"), PODMAN_LEAST, "runs the containers", _apt(system, "podman"))
    yield _versioned("runc", facts.get("runc"), (1,), "Podman's runtime, with CRIU", _apt(system, "runc"))
    if "podman" not in facts:
        return
    driver = facts.get("storage", "")
    good = driver == "overlay"
    mend = (
        'set driver = "overlay" under [storage] in /etc/containers/storage.conf, then podman system reset, '
        "which removes the containers and images that are there"
    )
    purpose = "what a container has changed is a layer of its own"
    yield Finding("storage", "ok" if good else "wrong", driver, purpose, "" if good else mend)


def _criu(facts: dict[str, str], system: str) -> Iterator[Finding]:
    mend = CRIU.get(system) or _apt(system, f"criu, {_dotted(CRIU_LEAST)} or newer")
    have = facts.get("criu")
    yield _versioned("criu", have, CRIU_LEAST, "writes a running container down, and makes it run again", mend)
    if have is None:
        return
    said = facts.get("criu_check", "")
    good = said == "ok"
    mend = "a newer criu (above), or a kernel that has what it names"
    purpose = "what this CRIU wants of this kernel"
    yield Finding("criu check", "ok" if good else "wrong", said, purpose, "" if good else mend)


def _network(facts: dict[str, str], system: str) -> Iterator[Finding]:
    walls = [f"{name} {facts[name]}" for name in ("iptables", "nft") if name in facts]
    purpose = "CRIU locks a frozen container's connections with it"
    mend = "" if walls else _apt(system, "iptables nftables")
    yield Finding("firewall", "ok" if walls else "missing", ", ".join(walls), purpose, mend)
    have = facts.get("ovs")
    purpose = "the overlay's bridge and tunnels"
    yield _versioned("openvswitch", have, (2, 13), purpose, _apt(system, "openvswitch-switch"))
    if have is None:
        return
    runs = "ovs_runs" in facts
    found = f"with the {'kernel' if 'ovs_module' in facts else 'user space'} datapath" if runs else "it does not run"
    mend = "" if runs else "systemctl enable --now openvswitch-switch"
    yield Finding("ovs-vswitchd", "ok" if runs else "wrong", found, purpose, mend)


def _sshd(facts: dict[str, str], system: str) -> Finding:
    purpose = "how the controller comes in"
    if "sshd" not in facts:
        return Finding("sshd", "missing", "", purpose, _apt(system, "openssh-server"))
    runs = "sshd_runs" in facts
    mend = "" if runs else "systemctl enable --now ssh"
    return Finding("sshd", "ok" if runs else "wrong", "" if runs else "it does not run", purpose, mend)


def _present(
    facts: dict[str, str], name: str, purpose: str, mend: str, shown: str = "", *, needed: bool = True
) -> Finding:
    if name in facts:
        return Finding(name, "ok", shown, purpose, needed=needed)
    return Finding(name, "missing", "", purpose, mend, needed)


def _versioned(name: str, have: str | None, least: tuple[int, ...], purpose: str, mend: str) -> Finding:
    if have is None:
        return Finding(name, "missing", "", purpose, mend)
    if _number(have) >= least:
        return Finding(name, "ok", have, purpose)
    return Finding(name, "too old", f"{have}; {_dotted(least)} or newer is wanted", purpose, mend)


def _apt(system: str, packages: str) -> str:
    """The line for packages that every supported system has new enough; elsewhere, what to look for."""
    if system in SUPPORTED:
        return f"apt-get install --yes {packages}"
    return f"install {packages}; tried on Debian 12, Debian 13 and Ubuntu 24.04, and this is {system or 'unknown'}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
