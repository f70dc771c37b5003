"""Network namespaces and the interfaces in them, by netlink alone: no ``ip`` process, no ``ethtool``."""

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from coat_ryu.node.failure import Failure

DIRECTORY = Path("/run/netns")
INSIDE = "eth0"
"""What a container's interface is called in its namespace."""

CLONE_NEWNET = 0x40000000  # linux/sched.h
IFA_F_NODAD = 0x02  # linux/if_addr.h
RT_SCOPE_UNIVERSE = 0  # linux/rtnetlink.h
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17  # linux/sockios.h, linux/ethtool.h


def path(name: str) -> Path:
    return DIRECTORY / name


def exists(name: str) -> bool:
    """Whether the name stands for a namespace; a mere file is what an interrupted creation leaves."""
    try:
        return path(name).stat().st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def create(name: str) -> bool:
    """Makes the namespace as ``ip netns add`` does, seen by every process of the node. False if it is there already."""
    if exists(name):
        return False
    path(name).unlink(missing_ok=True)
    errors: list[OSError] = []

    def make() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            netns.attach(str(path(name)), "thread-self")
        except OSError as error:
            errors.append(error)

    # A thread of its own, which ends in the new namespace: no other request must find itself in there.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if errors:
        raise Failure("command_failed", f"namespace {name}: {os.strerror(errors[0].errno or 0)}")
    return True


def remove(name: str) -> bool:
    """Takes the name away; the namespace goes when no process is in it any more. False if there is none."""
    if not exists(name):
        path(name).unlink(missing_ok=True)
        return False
    netns.remove(str(path(name)))
    return True


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """The calling thread is in the namespace. Raises Failure if there is no such namespace."""
    if not exists(name):
        raise Failure("not_found", f"netns: there is no namespace {name}")
    with visiting(path(name)):
        yield


@contextlib.contextmanager
def visiting(there: Path) -> Iterator[None]:
    """The calling thread is in the namespace that is kept there, as in /proc/PID/ns/net. Raises Failure if none is."""
    if not there.exists():
        raise Failure("not_found", f"{there}: there is no namespace")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        netns.setns(str(there), flags=0)
        try:
            yield
        finally:
            netns.setns(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def netlink(what: str) -> Iterator[IPRoute]:
    """A route socket in the namespace of the calling thread; a refusal becomes a Failure about ``what``."""
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        raise Failure("command_failed", f"{what}: {os.strerror(error.code)}") from error


def index_of(route: IPRoute, interface: str) -> int | None:
    return next(iter(route.link_lookup(ifname=interface)), None)


def mtu_of(address: str) -> int | None:
    """The MTU of the host's interface that has an address."""
    with netlink(address) as route:
        found = next(iter(route.get_addr(address=address)), None)
        return None if found is None else route.link("get", index=found["index"])[0].get("mtu")


def ensure_pair(name: str, outside: str, mtu: int) -> bool:
    """A veth pair from ``outside`` on the host to ``eth0`` in the namespace, host end up. False if it is there."""
    with inside(name), netlink(name) as route:
        there = index_of(route, INSIDE) is not None
    with netlink(outside) as route:
        old = index_of(route, outside)
        if there and old is not None:
            return False
        if old is not None:
            route.link("del", index=old)
    if there:  # its host end is gone, or is in some other namespace
        with inside(name), netlink(name) as route:
            route.link("del", index=index_of(route, INSIDE))
    with path(name).open() as namespace, netlink(outside) as route:
        peer = {"ifname": INSIDE, "net_ns_fd": namespace.fileno(), "mtu": mtu}
        route.link("add", ifname=outside, kind="veth", peer=peer, mtu=mtu)
        quieten(outside)
        route.link("set", index=index_of(route, outside), state="up")
    return True


def configure(name: str, addresses: Sequence[str], mac: str, mtu: int) -> None:
    """``lo`` and ``eth0`` up, ``eth0`` with exactly these addresses, MAC and MTU, and complete checksums."""
    with inside(name), netlink(name) as route:
        route.link("set", index=1, state="up")
        # Addresses must be usable at once: the overlay knows that they are unique.
        _sysctl(INSIDE, "accept_dad", "0")
        index = index_of(route, INSIDE)
        route.link("set", index=index, address=mac, mtu=mtu)
        checksums_in_software(INSIDE)
        route.link("set", index=index, state="up")
        _set_addresses(route, index, [ipaddress.ip_interface(text) for text in addresses])


def _set_addresses(
    route: IPRoute, index: int | None, wanted: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]
) -> None:
    have = {
        ipaddress.ip_interface(f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}")
        for message in route.get_addr(index=index, scope=RT_SCOPE_UNIVERSE)
    }
    for old in have - set(wanted):
        route.addr("del", index=index, address=str(old.ip), prefixlen=old.network.prefixlen)
    for new in wanted:
        if new not in have:
            flags = IFA_F_NODAD if new.version == 6 else 0
            route.addr("add", index=index, address=str(new.ip), prefixlen=new.network.prefixlen, IFA_FLAGS=flags)


def forget_neighbours(name: str, addresses: Sequence[str]) -> int:
    """Deletes ``eth0``'s ARP and neighbour discovery entries of these addresses; returns how many there were."""
    wanted = {ipaddress.ip_address(text) for text in addresses}
    forgotten = 0
    with inside(name), netlink(name) as route:
        index = index_of(route, INSIDE)
        for entry in route.get_neighbours(ifindex=index):
            known = entry.get_attr("NDA_DST")
            if known is not None and ipaddress.ip_address(known) in wanted:
                with contextlib.suppress(NetlinkError):  # it has just expired
                    route.neigh("del", ifindex=index, dst=known, family=entry["family"])
                    forgotten += 1
    return forgotten


def link_exists(interface: str) -> bool:
    """Whether the host has an interface of that name."""
    with netlink(interface) as route:
        return index_of(route, interface) is not None


def transmit_drops(interface: str) -> int:
    """Frames for an interface of the host that found its queue full."""
    with netlink(interface) as route:
        (link,) = route.get_links(index_of(route, interface))
        return int(link.get_attr("IFLA_STATS64")["tx_dropped"])


def set_mtu(name: str, mtu: int) -> None:
    with inside(name), netlink(name) as route:
        route.link("set", index=index_of(route, INSIDE), mtu=mtu)


def delete_link(interface: str) -> bool:
    """Removes an interface of the host. False if there is none."""
    with netlink(interface) as route:
        index = index_of(route, interface)
        if index is None:
            return False
        try:
            route.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:  # it has gone with its peer
                raise
        return True


def quieten(interface: str) -> None:
    """No IPv6 of the host's own on a port of the switch: its router solicitations would enter the overlay."""
    _sysctl(interface, "disable_ipv6", "1")


def _sysctl(interface: str, key: str, value: str) -> None:
    # /proc/sys/net shows the namespace of the thread that opens it. A kernel without IPv6 has no such file.
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv6/conf/{interface}/{key}").write_text(value)


def checksums_in_software(interface: str) -> None:
    """What ``ethtool -K IF tx off`` does: a userspace datapath passes packets on without filling in checksums."""
    request = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_STXCSUM, 0))
    argument = struct.pack("16sP", interface.encode(), ctypes.addressof(request))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, argument)
