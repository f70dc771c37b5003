"""Frames with a TCP segment each, from the side that acknowledges ``ACK``."""

import struct

from coat_ryu.node.gaps import ETH_P_IP, ETH_P_IPV6

ACK = 0xFFFFFF00
TIMESTAMPS = bytes([1, 1, 8, 10]) + bytes(8)


def sack(*blocks: tuple[int, int]) -> bytes:
    edges = b"".join(struct.pack("!II", *(edge % 2**32 for edge in block)) for block in blocks)
    return bytes([1, 1, 5, 2 + len(edges)]) + edges


def segment(options: bytes, client: int = 4000) -> bytes:
    return struct.pack("!HHIIBBHHH", 7, client, 1, ACK, (20 + len(options)) // 4 << 4, 0x10, 500, 0, 0) + options


def ipv4(payload: bytes, protocol: int = 6, options: bytes = b"") -> bytes:
    words = (20 + len(options)) // 4
    header = struct.pack("!BBHHHBBH", 0x40 | words, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    return bytes(12) + struct.pack("!H", ETH_P_IP) + header + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + options + payload


def ipv6(payload: bytes) -> bytes:
    return bytes(12) + struct.pack("!HIHBB", ETH_P_IPV6, 6 << 28, len(payload), 6, 64) + bytes(32) + payload
