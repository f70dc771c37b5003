"""A way in the kernel from a hold's TAP to a container's port, open while nothing that came earlier is still waiting.

A hold that passes frames on by way of this process takes its time, so when the switch sends elsewhere, what comes then
would overtake what is on that way; to the peer's TCP that looks like loss. A frame that the kernel hands over within
the switch's own ``send`` cannot be overtaken. So a program on the TAP (bpf(2), BPF_PROG_TYPE_SCHED_CLS, tc-bpf(8))
counts the frames that go to the reader, and hands one over at once when the reader has delivered all it was given.
Only a kernel without BPF lacks this way; there frames may be overtaken in that moment.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import socket
import struct
from collections.abc import Iterator

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from coat_ryu.node import netns

SYSCALLS = {"x86_64": 321, "aarch64": 280}
"""The number of bpf(2) on the machines that are known: the C library has no function for it."""

# linux/bpf.h
MAP_CREATE, PROG_LOAD = 0, 5
MAP_TYPE_ARRAY, PROG_TYPE_SCHED_CLS = 2, 3
F_MMAPABLE = 1 << 10
PSEUDO_MAP_VALUE = 2
SKB_STORE_BYTES, REDIRECT = 9, 23
TC_ACT_OK = 0

EGRESS = 0xFFFFFFF3
"""TC_H_CLSACT | TC_H_MIN_EGRESS (linux/pkt_sched.h): what is sent to the interface."""

# The map's only value: two counters of frames, those given to the reader and those it is done with; how many were
# handed over; the interface to hand over to, 0 while the way is closed; and the destination's MAC.
_VALUE = struct.Struct("=QQQI6sxx")
_GIVEN, _DONE, _HANDED_OVER, _INTO, _MAC = 0, 8, 16, 24, 28


class Shortcut:
    """The way of one TAP. Raises OSError if this kernel cannot have it. It goes with the TAP."""

    def __init__(self, tap: str) -> None:
        with contextlib.ExitStack() as stack:
            counters = _bpf(MAP_CREATE, struct.pack("=5I", MAP_TYPE_ARRAY, 4, _VALUE.size, 1, F_MMAPABLE))
            stack.callback(os.close, counters)
            self._value = mmap.mmap(counters, mmap.PAGESIZE)
            program = _load(_program(counters))
            stack.callback(os.close, program)
            _attach(tap, program)

    def open(self, into: str, mac: bytes) -> None:
        """Frames go to the interface ``into`` and to ``mac``, whoever they were for, as soon as nothing waits."""
        with contextlib.suppress(OSError):  # the port is gone, and with it the container
            index = socket.if_nametoindex(into)
            self._value[_MAC : _MAC + 6] = mac
            struct.pack_into("=I", self._value, _INTO, index)

    def done(self, frames: int) -> None:
        """So many frames in all need not be waited for any more: they were delivered, or lost."""
        struct.pack_into("=Q", self._value, _DONE, frames)

    @property
    def given(self) -> int:
        return int(struct.unpack_from("=Q", self._value, _GIVEN)[0])

    @property
    def handed_over(self) -> int:
        return int(struct.unpack_from("=Q", self._value, _HANDED_OVER)[0])

    def close(self) -> None:
        self._value.close()


def _program(counters: int) -> bytes:
    """``if into and given == done: rewrite, redirect; else: given += 1, go on``."""
    r0, r1, r2, r3, r4, r5, context, value = range(8)
    load64, load32, add_atomically = 0x79, 0x61, 0xDB
    move, move_register, add, jump_if_equal, jump_if_other, call, leave = 0xB7, 0xBF, 0x07, 0x15, 0x5D, 0x85, 0x95
    give = [
        _code(move, r1, immediate=1),
        _code(add_atomically, value, r1, _GIVEN),
        _code(move, r0, immediate=TC_ACT_OK),
        _code(leave),
    ]
    hand_over = [
        _code(move_register, r1, context),
        _code(move, r2, immediate=0),
        _code(move_register, r3, value),
        _code(add, r3, immediate=_MAC),
        _code(move, r4, immediate=6),
        _code(move, r5, immediate=0),
        _code(call, immediate=SKB_STORE_BYTES),
        _code(move, r1, immediate=1),
        _code(add_atomically, value, r1, _HANDED_OVER),
        _code(load32, r1, value, _INTO),
        _code(move, r2, immediate=0),
        _code(call, immediate=REDIRECT),
        _code(leave),
    ]
    decide = [
        _code(move_register, context, r1),
        _code(0x18, value, PSEUDO_MAP_VALUE, immediate=counters),  # a 64-bit constant takes two instructions
        _code(0),
        _code(load32, r1, value, _INTO),
        _code(jump_if_equal, r1, offset=3 + len(hand_over)),
        _code(load64, r2, value, _GIVEN),
        _code(load64, r3, value, _DONE),
        _code(jump_if_other, r2, r3, offset=len(hand_over)),
    ]
    return b"".join([*decide, *hand_over, *give])


def _code(code: int, to: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """One instruction (linux/bpf.h, struct bpf_insn)."""
    return struct.pack("=BBhi", code, to | source << 4, offset, immediate)


def _load(program: bytes) -> int:
    code, licence = ctypes.create_string_buffer(program, len(program)), ctypes.create_string_buffer(b"Apache-2.0")
    return _bpf(
        PROG_LOAD,
        struct.pack("=IIQQ", PROG_TYPE_SCHED_CLS, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence)),
    )


def _bpf(command: int, attributes: bytes) -> int:
    """The file descriptor that bpf(2) gives."""
    number = SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # What is behind our attributes must be zero: the kernel's own structure is longer.
    buffer = ctypes.create_string_buffer(attributes, 128)
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(number, command, buffer, len(buffer))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)


def _attach(tap: str, program: int) -> None:
    with _refusals(), IPRoute() as route:
        index = netns.index_of(route, tap)
        route.tc("add", "clsact", index)
        route.tc("add-filter", "bpf", index, fd=program, name="hold", parent=EGRESS, direct_action=True)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error
