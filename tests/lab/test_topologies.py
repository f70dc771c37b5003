"""Every topology that is shipped comes up, and each container reaches all of its network and nobody else."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import wait_for

FILES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))
PORT = 7007
SIZE = 200_000
"""Bytes that each pair exchanges: more than fits one segment, so that a wrong MTU shows."""
LISTEN_SECONDS = 2.0

# Answers every connection with the container's name and then SIZE bytes.
SERVE = f"""
import socket, sys, threading
def answer(connection):
    with connection:
        connection.sendall(sys.argv[1].ljust(64).encode() + bytes({SIZE}))
with socket.create_server(("", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("ready", flush=True)
    while True:
        threading.Thread(target=answer, args=(server.accept()[0],)).start()
"""

# Prints whom it finds at each address, and None where nobody is.
ASK = f"""
import json, socket, sys
def ask(address):
    try:
        with socket.create_connection((address, {PORT}), 3) as connection:
            text = connection.makefile("rb").read()
    except OSError:
        return None
    return text[:64].decode().strip() if len(text) == 64 + {SIZE} else f"{{len(text)}} bytes"
print(json.dumps({{address: ask(address) for address in sys.argv[1:]}}))
"""


class Netns:
    """A container's network, on its node."""

    def __init__(self, lab: Lab, container: dict[str, Any]) -> None:
        self.lab, self.container = lab, container
        self.argv = ["nsenter", f"--net=/run/netns/coat-{container['name']}"]

    def run(self, *command: str) -> str:
        return self.lab.exec(self.container["node"], [*self.argv, *command]).stdout

    def popen(self, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return self.lab.popen(self.container["node"], [*self.argv, *command], stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_all_pairs_talk_and_no_frame_runs_in_circles(file: Path) -> None:
    with Lab(file, name=f"tests-{file.stem}") as lab:
        controller = Controller(lab.rest)
        wait_for(lambda: all(one["state"] == "running" for one in controller.get("/v1.0/containers")), 60, "containers")
        places = {one["name"]: Netns(lab, one) for one in controller.get("/v1.0/containers")}
        assert len(places) > 2
        servers = [place.popen("python3", "-c", SERVE, name) for name, place in places.items()]
        try:
            assert [server.stdout.readline() for server in servers if server.stdout] == ["ready\n"] * len(servers)
            all_pairs(places)
            one_copy_of_a_broadcast(places)
        finally:
            for server in servers:
                server.kill()
                server.communicate()


def all_pairs(places: dict[str, Netns]) -> None:
    """Also over IPv6. Networks may use the same addresses: who answers must be of the asker's own."""
    for name, place in places.items():
        mine = place.container["network"]
        wanted: dict[str, str | None] = {}
        for other in (each.container for each in places.values()):
            for address in (other["ip"], other["ip6"]):
                if other["network"] == mine:
                    wanted[address] = other["name"]
                else:
                    wanted.setdefault(address, None)
        assert json.loads(place.run("python3", "-c", ASK, *wanted)) == wanted, name


def one_copy_of_a_broadcast(places: dict[str, Netns]) -> None:
    """A question for an address that nobody has is flooded: each other container of the network hears it once."""
    nobody = {name: place.container["ip"].rsplit(".", 1)[0] + ".199" for name, place in places.items()}
    ears = {
        name: place.popen("tcpdump", "-Z", "root", "-lni", "eth0", "ether multicast") for name, place in places.items()
    }
    for ear in ears.values():
        assert ear.stderr is not None
        while "listening on" not in ear.stderr.readline():
            assert ear.poll() is None
    asking, place = next(iter(places.items()))
    place.run("python3", "-c", QUESTION, place.container["mac"], place.container["ip"], nobody[asking])
    time.sleep(LISTEN_SECONDS)
    heard = {}
    for name, ear in ears.items():
        ear.terminate()
        heard[name] = ear.communicate(timeout=10)[0].splitlines()
    for name, lines in heard.items():
        same = places[name].container["network"] == place.container["network"]
        assert sum(nobody[asking] in line for line in lines) == int(same), (name, lines)
        assert len(lines) < 20, (name, lines)


# An ARP request (RFC 826), sent exactly once.
QUESTION = """
import socket, sys
mac = bytes.fromhex(sys.argv[1].replace(":", ""))
mine, wanted = (socket.inet_aton(text) for text in sys.argv[2:])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
    raw.bind(("eth0", 0))
    raw.send(b"\\xff" * 6 + mac + bytes.fromhex("0806" "0001" "0800" "0604" "0001") + mac + mine + bytes(6) + wanted)
"""
