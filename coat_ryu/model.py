"""The nouns of the project, as frozen values: what a topology file describes and what the overlay is made of.

Two families live here. The pydantic models are what people write (topology files); unknown keys are errors and every
limit is stated once, here, so that files, REST requests and the OpenAPI document agree. The dataclasses are what the
controller computes with.
"""

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

VXLAN_OVERHEAD = 50
"""Bytes that VXLAN over IPv4 adds to a frame's payload: inner MTU = underlay MTU - 50 (RFC 7348, section 5)."""

IFNAME_MAX = 15
"""Longest interface name that Linux takes (IFNAMSIZ - 1)."""

# Podman's own rule for names, cut to what fits a DNS label.
Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$")]
Mac = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$", to_lower=True)
]  # the group bit (IEEE 802, I/G) must be clear
# As the hook checks them again: nothing here is ever given to a shell, and nothing looks like an option.
Image = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,254}$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_.-]*$")]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Vni = Annotated[int, Field(ge=1, le=0xFFFFFF, strict=True)]  # strict: true is no number


def _not_zero(dpid: str) -> str:
    if not int(dpid, 16):
        raise ValueError("0 is no datapath id of a switch")
    return dpid


def _no_number(value: object) -> object:
    """``address: 5`` would be 0.0.0.5, which nobody means."""
    if isinstance(value, (bool, int, float, bytes)):
        raise ValueError("input should be an address in words, as in 192.0.2.1")
    return value


Dpid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$"), AfterValidator(_not_zero)]
Address = Annotated[IPv4Address, BeforeValidator(_no_number)]
Address6 = Annotated[IPv6Address, BeforeValidator(_no_number)]
Subnet = Annotated[IPv4Network, BeforeValidator(_no_number)]
Subnet6 = Annotated[IPv6Network, BeforeValidator(_no_number)]

Mode = Literal["prepared", "parallel", "sequential"]
"""How a migration's steps stand in time (saga.PLANS)."""

Memory = Literal["full", "lazy", "precopy"]
"""How a container's memory moves: with its state, after it, or before it."""

State = Literal["running", "succeeded", "rolled_back", "failed"]
"""Of a migration."""

ContainerState = Literal["running", "paused", "stopped", "created", "checkpointed", "migrating", "missing", "unknown"]

MacPolicy = Literal["keep", "renew"]
"""Whether a container keeps its MAC address when it moves; the paper renews it (section III, step 3)."""


class Document(BaseModel):
    """Base of all that is read from people: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ssh(Document):
    """How the controller logs in to a node. Paths may start with ``~``; None takes the controller's option."""

    host: str | None = None
    port: int = Field(default=22, ge=1, le=65535, strict=True)
    user: str = Field(default="root", min_length=1)
    key: str | None = None
    known_hosts: str | None = None


class Node(Document):
    """A host with an Open vSwitch bridge, Podman and CRIU.

    ``address`` is the node's underlay address, the end point of its tunnels. ``dpid`` defaults to one made from the
    name, so that it survives a reordering of the file. ``datapath`` None lets the node choose: the kernel's where the
    openvswitch module is there, else userspace.
    """

    name: Name
    address: Address
    ssh: Ssh = Ssh()
    dpid: Dpid | None = None
    datapath: Literal["system", "netdev"] | None = None

    @property
    def switch(self) -> str:
        """The datapath id of the node's bridge, 16 hex digits."""
        return self.dpid or "c0a7" + hashlib.sha256(self.name.encode()).hexdigest()[:12]


class Network(Document):
    """One isolated overlay network: its VXLAN network identifier and its subnets."""

    name: Name
    vni: Vni
    subnet: Subnet
    subnet6: Subnet6 | None = None


class Tunnel(Document):
    """A tunnel between two nodes. ``weight`` is the cost that path computation adds up."""

    between: tuple[Name, Name]
    weight: float = Field(default=1.0, gt=0, le=1e9, strict=True)


CAPABILITIES = frozenset(
    """AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH
    FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE
    NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE
    SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM""".split()
)
"""Linux's (capabilities(7)), without CAP_."""
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _capability(name: object) -> object:
    bare = name.upper().removeprefix("CAP_") if isinstance(name, str) else name
    if bare == "ALL":
        return bare
    if not isinstance(bare, str) or bare not in CAPABILITIES:
        raise ValueError("a capability of capabilities(7) is wanted, such as NET_RAW, or ALL")
    return f"CAP_{bare}"


def _size(value: object) -> object:
    """Bytes, or a number with a unit, as in Compose files."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([bkmg]?)b?", value.lower()) if isinstance(value, str) else None
    return int(float(match[1]) * UNITS[match[2]]) if match else value


def _no_new_privileges(value: object) -> object:
    return "no-new-privileges" if value in ("no-new-privileges:true", "no-new-privileges=true") else value


Capability = Annotated[str, BeforeValidator(_capability, json_schema_input_type=str)]
SecurityOption = Annotated[
    Literal["no-new-privileges"],
    BeforeValidator(_no_new_privileges, json_schema_input_type=Literal["no-new-privileges"]),
]
Bytes = Annotated[int, Field(ge=6 << 20, le=1 << 50), BeforeValidator(_size, json_schema_input_type=int | str)]


class ContainerSpec(Document):
    """A container as it is asked for. What is left out is chosen: network, address, and a MAC made from both.

    From ``cap_drop`` on, what it may do and use at the most; the names are those of the Compose specification.
    """

    name: Name
    node: Name
    image: Image
    command: tuple[Text, ...] = ()
    network: Name | None = None
    ip: Address | None = None
    ip6: Address6 | None = None
    mac: Mac | None = None
    env: dict[Variable, Text] = {}
    cap_drop: tuple[Capability, ...] = ()
    security_opt: tuple[SecurityOption, ...] = ()
    mem_limit: Bytes | None = None
    cpus: float | None = Field(default=None, ge=0.01, le=4096, allow_inf_nan=False)
    pids_limit: int | None = Field(default=None, ge=1, le=1 << 22)

    @property
    def limits(self) -> dict[str, Any]:
        """Of these what is asked for."""
        found = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in found.items() if value not in (None, ())}


LIMITS = ("cap_drop", "security_opt", "mem_limit", "cpus", "pids_limit")


class Topology(Document):
    """A whole installation, as its file describes it. ``lab`` is read by the Mininet lab alone."""

    name: Name = "coat"
    underlay_mtu: int = Field(
        default=1500, ge=1330, le=65535, strict=True
    )  # inner IPv6 needs 1280 (RFC 8200, section 5)
    nodes: tuple[Node, ...] = ()
    networks: tuple[Network, ...] = ()
    tunnels: Literal["full-mesh"] | tuple[Tunnel, ...] = "full-mesh"
    containers: tuple[ContainerSpec, ...] = ()
    lab: dict[str, object] = {}

    @property
    def inner_mtu(self) -> int:
        return self.underlay_mtu - VXLAN_OVERHEAD

    def node(self, name: str) -> Node:
        """The node of that name. Raises KeyError."""
        return {node.name: node for node in self.nodes}[name]

    def network(self, name: str) -> Network:
        """The network of that name. Raises KeyError."""
        return {network.name: network for network in self.networks}[name]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame enters or leaves a switch: a node and the name of an interface on its bridge."""

    node: str
    port: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A queue for the frames of a migrating container, read and written by a holder process on ``tap``'s node.

    While ``filling``, all frames for the container go into the tap. What the holder writes back comes out of the
    tap and goes to the binding's ``place``, wherever that is: the destination after a restore, the source after a
    rollback. ``turned``: frames go to ``place`` as ever, but its own switch sends them on to the tap. ``sifting``: it
    does so only with what opens a connection.
    """

    tap: Place
    filling: bool
    turned: bool = False
    sifting: bool = False


@dataclass(frozen=True, slots=True)
class Binding:
    """Which MAC and addresses live where: the overlay's whole knowledge of one container.

    ``place`` is where its frames are delivered. ``origins`` are the ports that may send as it (during a migration both
    the source's and the destination's). ``hold`` parks its frames while it is frozen. ``former_macs`` are addresses
    that peers may still use after a migration with a new MAC; frames to them are rewritten.
    """

    container: str
    vni: int
    mac: str
    ips: tuple[IPv4Address | IPv6Address, ...]
    place: Place
    origins: tuple[Place, ...]
    hold: Hold | None = None
    former_macs: tuple[str, ...] = ()

    @property
    def delivery(self) -> Place:
        """Where its frames go now: into the hold while that is filling, else to its place."""
        return self.hold.tap if self.hold and self.hold.filling else self.place


def binding_of(spec: ContainerSpec, network: Network, node: str) -> Binding:
    """The binding of a container (with a completed spec) at rest on ``node``."""
    assert spec.mac is not None and spec.ip is not None
    place = Place(node, container_port(spec.name))
    ips = (spec.ip,) if spec.ip6 is None else (spec.ip, spec.ip6)
    return Binding(spec.name, network.vni, spec.mac, ips, place, origins=(place,))


def interface_name(prefix: str, name: str) -> str:
    """An interface name within Linux's limit that stays readable: ``prefix + name``, or its start and a hash."""
    whole = prefix + name
    if len(whole) <= IFNAME_MAX:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:5]
    return whole[: IFNAME_MAX - 6] + "-" + digest


def container_port(container: str) -> str:
    return interface_name("c-", container)


def tunnel_port(peer: str) -> str:
    return interface_name("t-", peer)


def hold_port(container: str) -> str:
    return interface_name("h-", container)


def namespace_name(container: str) -> str:
    return "coat-" + container


def default_mac(vni: int, ip: IPv4Address) -> str:
    """A locally administered MAC made from network and address: the same container gets the same MAC everywhere."""
    tail = hashlib.sha256(f"{vni}/{ip}".encode()).digest()[:5]
    return ":".join(f"{byte:02x}" for byte in b"\x02" + tail)


def cidr(address: IPv4Address | IPv6Address, network: Network) -> str:
    """The address with its network's prefix length, for example ``192.168.50.10/24``."""
    subnet = network.subnet if isinstance(address, ipaddress.IPv4Address) else network.subnet6
    assert subnet is not None
    return f"{address}/{subnet.prefixlen}"
