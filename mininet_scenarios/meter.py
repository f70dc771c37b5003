"""Runs on a lab host (standard library only): watches one process's network namespace through /proc, once a
millisecond.

Prints a line of JSON at the end: ``arrivals``, the times at which TCP segments had come in since the look before;
``bytes``, a list of [time, received so far, sent so far] every 50 ms. Ends when its standard input closes.
"""

import json
import select
import sys
import time

TICK = 0.001
BYTES_EVERY = 0.05


def tcp_segments_in(snmp: str) -> int:
    """``Tcp: InSegs`` of /proc/PID/net/snmp (RFC 4022, tcpInSegs), which counts IPv4 and IPv6."""
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("InSegs")])


def interface_bytes(dev: str, interface: str = "eth0") -> tuple[int, int]:
    """Bytes received and sent, from /proc/PID/net/dev (proc_pid_net(5))."""
    for line in dev.splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            fields = counters.split()
            return int(fields[0]), int(fields[8])
    raise ValueError(f"no interface {interface}")


def main(pid: str) -> None:
    arrivals: list[float] = []
    counted: list[tuple[float, int, int]] = []
    seen, next_bytes = -1, 0.0
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], TICK)[0]:
        with open(f"/proc/{pid}/net/snmp") as snmp:
            segments = tcp_segments_in(snmp.read())
        now = time.time()
        if segments != seen:
            arrivals.append(now)
            seen = segments
        if now >= next_bytes:
            with open(f"/proc/{pid}/net/dev") as dev:
                counted.append((now, *interface_bytes(dev.read())))
            next_bytes = now + BYTES_EVERY
    print(json.dumps({"arrivals": arrivals, "bytes": counted}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
