"""Builds the lab's network with Mininet, says so, and then relays REST connections until the lab ends.

Standard output carries one JSON object a line to the supervisor: ``{"progress": text}``, then ``{"ready": true}`` or
``{"error": text}``. The listening socket of the relay is inherited, as the file descriptor that argument 1 names: it
belongs to the machine's network, what it connects to is the lab's.
"""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge

from mininet_scenarios.inside.buffers import keep_enlarged
from mininet_scenarios.inside.host import CGROUPS, STATE, EdgeHost, make_key
from mininet_scenarios.inside.links import connect, netem_works
from mininet_scenarios.inside.relay import relay

UNDERLAY = "underlay"


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def build(plan: dict[str, Any]) -> Mininet:
    """Hosts, links and the bridge that joins them. Raises RuntimeError with the command that failed."""
    _delegate_controllers()
    make_key(STATE / "id_ed25519", "coat-lab")
    Mininet.inited = True  # its init() raises sysctls of the whole machine, which would outlive the lab
    for switch_off in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        switch_off.write_text("0")  # frames between hosts are no business of this namespace's netfilter
    net = Mininet(controller=None, build=False)
    switch = net.addSwitch(UNDERLAY, cls=LinuxBridge, dpid="1")  # Mininet wants a dpid, also here
    everyone = {host["name"]: host["address"] for host in plan["hosts"]} | {"controller": plan["controller"]}
    netem_there = netem_works()
    ports = []
    for spec in plan["hosts"]:
        say(progress=f"host {spec['name']}")
        address = f"{spec['address']}/{plan['prefix_length']}"
        host = net.addHost(spec["name"], cls=EdgeHost, spec=spec, everyone=everyone, ip=address)
        ports.append(connect(net, switch, host, netem_there))
    (STATE / "known_hosts").write_text("".join(host.known_host() for host in net.hosts))
    net.build()
    net.start()
    for port in ports:
        _ip("link", "set", port.name, "mtu", str(plan["mtu"]), "up")
    # Packets of ours must carry finished checksums: a userspace datapath at the other end takes them as they are.
    subprocess.run(["ethtool", "-K", UNDERLAY, "tx", "off"], check=True, capture_output=True, timeout=10)
    _ip("link", "set", UNDERLAY, "mtu", str(plan["mtu"]), "up")
    _ip("address", "add", f"{plan['controller']}/{plan['control_prefix_length']}", "dev", UNDERLAY)
    return net


def boot(net: Mininet, plan: dict[str, Any]) -> None:
    """Start the services of all hosts, several at a time."""
    say(progress="starting Open vSwitch and sshd")

    def boot_one(host: EdgeHost) -> None:
        kernel = host.spec["datapath"] != "netdev" and plan["kernel_datapath"]
        host.boot(plan["mtu"], plan["prefix_length"], plan["control_prefix_length"], kernel)

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(boot_one, net.hosts))


def _delegate_controllers() -> None:
    """Let the hosts' cgroups have the controllers that the lab's has (none where they are all in version 1)."""
    for controller in (CGROUPS / "cgroup.controllers").read_text().split():
        with suppress(OSError):  # cpu cannot be handed down while there are realtime processes; nothing here needs it
            (CGROUPS / "cgroup.subtree_control").write_text(f"+{controller}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


async def serve(net: Mininet, listener: socket.socket, rest_port: int) -> None:
    await asyncio.gather(relay(listener, ("127.0.0.1", rest_port)), keep_enlarged(net.hosts))


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    plan = json.loads((STATE / "plan.json").read_text())
    setLogLevel("warning")
    try:
        net = build(plan)
        boot(net, plan)
    except Exception as error:  # whatever it is, the person who waits must read it
        say(error=f"{type(error).__name__}: {error}")
        raise
    for host in net.hosts:
        shutil.rmtree(host.seed)  # private keys are where they belong now
    say(ready=True)
    asyncio.run(serve(net, listener, plan["rest_port"]))


if __name__ == "__main__":
    main()
