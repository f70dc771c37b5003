"""Ethernet frames that the controller itself sends: announcements of a new MAC, and answers to neighbour solicitations.

RFC 5227 (ARP announcements), RFC 4861 (neighbour discovery), RFC 1071 (checksum).
"""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
SOLICITED, OVERRIDE = 0x40000000, 0x20000000
_SOLICITATION, _ADVERTISEMENT = 135, 136


class Solicitation(NamedTuple):
    mac: str
    source: IPv6Address
    target: IPv6Address


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def gratuitous_arp(mac: str, ip: IPv4Address) -> bytes:
    """An ARP announcement: a broadcast request for one's own address."""
    ethernet = BROADCAST + _bytes(mac) + b"\x08\x06"
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + _bytes(mac) + ip.packed + bytes(6) + ip.packed
    return (ethernet + arp).ljust(60, b"\0")


def unsolicited_advertisement(mac: str, ip: IPv6Address) -> bytes:
    return _advertisement(mac, ip, ALL_NODES_MAC, ALL_NODES, OVERRIDE)


def advertisement(mac: str, solicitation: Solicitation) -> bytes:
    """The answer to a solicitation from an address (not from ``::``)."""
    flags = SOLICITED | OVERRIDE
    return _advertisement(mac, solicitation.target, _bytes(solicitation.mac), solicitation.source, flags)


def _advertisement(mac: str, ip: IPv6Address, to_mac: bytes, to: IPv6Address, flags: int) -> bytes:
    body = struct.pack("!I", flags) + ip.packed + b"\x02\x01" + _bytes(mac)
    head = struct.pack("!BBH", _ADVERTISEMENT, 0, 0)
    pseudo = ip.packed + to.packed + struct.pack("!II", len(head) + len(body), 58)
    icmp = head[:2] + struct.pack("!H", _checksum(pseudo + head + body)) + body
    ipv6 = struct.pack("!IHBB", 6 << 28, len(icmp), 58, 255) + ip.packed + to.packed
    return to_mac + _bytes(mac) + b"\x86\xdd" + ipv6 + icmp


def parse_solicitation(frame: bytes) -> Solicitation | None:
    """The neighbour solicitation in a frame; None when it is anything else."""
    if len(frame) < 78 or frame[12:14] != b"\x86\xdd" or frame[20] != 58 or frame[54] != _SOLICITATION:
        return None
    return Solicitation(frame[6:12].hex(":"), IPv6Address(frame[22:38]), IPv6Address(frame[62:78]))


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
