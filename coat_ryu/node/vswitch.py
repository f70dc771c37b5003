"""The node's Open vSwitch: its overlay bridge, tunnels and ports, one ``ovs-vsctl`` transaction a verb."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from coat_ryu.node import netns
from coat_ryu.node.process import run
from coat_ryu.node.verbs import Dpid, Ifname, Mark, Target, address, verb

TIMEOUT = 20
"""Seconds for one transaction, the switch's own work included: ovs-vsctl returns when ovs-vswitchd has done it."""

MASTER = "coat-master"
"""Key of the bridge's ``external_ids``: whom this node obeys (``master``)."""

KINDS = ("tunnel", "container", "hold")
"""Values of ``external_ids:coat``, our mark on interfaces."""


def vsctl(*arguments: str) -> str:
    """One transaction. Raises Failure."""
    return run(["ovs-vsctl", f"--timeout={TIMEOUT}", *arguments], timeout=TIMEOUT + 5)


def add_port(bridge: str, port: str, kind: str, *settings: str) -> None:
    """The port is on the bridge, marked as ours; ``settings`` are columns of its interface, ``column=value``."""
    add = ["--may-exist", "add-port", bridge, port]
    vsctl(*add, "--", "set", "interface", port, f"external_ids:coat={kind}", *settings)


def delete_ports(bridge: str, ports: Sequence[str]) -> None:
    commands = [word for port in ports for word in ("--", "--if-exists", "del-port", bridge, port)]
    vsctl(*commands[1:])


def our_ports(bridge: str, kind: str) -> dict[str, dict[str, Any]]:
    """Interfaces of ours on the bridge: name to the maps ``options`` and ``external_ids``."""
    on_bridge = set(vsctl("list-ports", bridge).split())
    columns = ("name", "options", "external_ids")
    table = ["--format=json", f"--columns={','.join(columns)}", "find", "interface", f"external_ids:coat={kind}"]
    rows = json.loads(vsctl(*table))
    found = (dict(zip(rows["headings"], map(_plain, row), strict=True)) for row in rows["data"])
    return {row["name"]: row for row in found if row["name"] in on_bridge}


def _plain(value: Any) -> Any:
    """A value of OVSDB's JSON notation (RFC 7047, section 5.1): maps become dicts, empty sets None."""
    if isinstance(value, list) and value[:1] == ["map"]:
        return dict(value[1])
    if isinstance(value, list) and value[:1] == ["set"]:
        return value[1] or None
    return value


CONTROLLER = ("inactivity_probe=10000", "controller_rate_limit=100", "controller_burst_limit=100")
"""A connection is asked for a sign of life after 10 s of silence and given up after 10 more: a controller that is busy
is not gone. Of what containers send, no more than this many packets a second come to the controller; who is not heard
asks again (neighbour discovery).
"""


@verb
def bridge_ensure(
    *,
    bridge: Ifname,
    dpid: Dpid,
    controllers: list[Target],
    datapath: Literal["system", "netdev"] | None = None,
    master: Mark | None = None,
) -> dict[str, Any]:
    """The bridge is there and speaks OpenFlow 1.3 to its controllers and to nobody else. It remembers ``master``."""
    datapath = datapath or _best_datapath()
    settings = [f"datapath_type={datapath}", "fail_mode=secure", "protocols=OpenFlow13"]
    settings += [f"other_config:datapath-id={dpid}", "other_config:disable-in-band=true"]
    if master is not None:
        settings.append(f'external_ids:{MASTER}="{master}"')
    vsctl("--may-exist", "add-br", bridge, "--", "set", "bridge", bridge, *settings)
    if sorted(vsctl("get-controller", bridge).split()) != sorted(controllers):
        vsctl("set-controller", bridge, *controllers)
    if controllers:
        vsctl("set", "controller", bridge, *CONTROLLER)
    orphans = [port for port in our_ports(bridge, "hold") if not netns.link_exists(port)]
    if orphans:  # a hold's TAP ends with the hook that had it, its row does not
        delete_ports(bridge, orphans)
    return {"datapath": datapath}


def master_of(bridge: str) -> str:
    """What a bridge remembers of whom this node obeys; empty if nothing."""
    return vsctl("--if-exists", "get", "bridge", bridge, f"external_ids:{MASTER}").strip()


def _best_datapath() -> Literal["system", "netdev"]:
    """The kernel's where its module is loaded or built in, else userspace (OVS documentation, "Userspace datapath")."""
    return "system" if Path("/sys/module/openvswitch").exists() else "netdev"


def _datapath(bridge: str) -> str:
    return vsctl("get", "bridge", bridge, "datapath_type").strip().strip('"') or "system"


LIVENESS = ("bfd:enable=true", "bfd:min_rx=1000", "bfd:min_tx=1000")
"""A VXLAN port is up whatever becomes of its peer; BFD (RFC 5880) finds out. Once a second: busy is not dead."""


@verb
def tunnels_ensure(*, bridge: Ifname, tunnels: dict[Ifname, str], local: str | None = None) -> dict[str, Any]:
    """Exactly these VXLAN ports, each to its remote address; the flows set and match the network identifier.

    ``local`` is the node's own end: what comes to another of its addresses is nobody's tunnel. Behind an address
    translation no interface has it, and all are listened to. A datapath in user space listens at the addresses of its
    own bridges alone; told a tunnel's own end, it drops what goes out unless it has read the kernel's routes
    (lib/ovs-router.c, ovs_router_lookup).
    """
    for port, remote in tunnels.items():
        address(f"tunnels.{port}", remote)
    if local is not None:
        address("local", local)
        local = local if _datapath(bridge) == "system" and _is_here(local) else None
    have = {name: row["options"] or {} for name, row in our_ports(bridge, "tunnel").items()}
    wanted = {port: {"remote_ip": remote} | ({"local_ip": local} if local else {}) for port, remote in tunnels.items()}
    removed = sorted(set(have) - set(wanted))
    added = sorted(port for port, ends in wanted.items() if _ends(have.get(port, {})) != ends)
    if removed:
        delete_ports(bridge, removed)
    for port in added:
        options = ",".join(f"{key}={value}" for key, value in {"key": "flow", **wanted[port]}.items())
        add_port(bridge, port, "tunnel", "type=vxlan", f"options={options}", *LIVENESS)
    return {"added": added, "removed": removed}


def _ends(options: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in options.items() if key in ("remote_ip", "local_ip")}


def _is_here(local: str) -> bool:
    """Whether an interface of this node has the address."""
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((local, 0))
    except OSError:
        return False
    return True
