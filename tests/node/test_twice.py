"""Every verb, sent twice to a real host: the second time nothing changes.

Whoever asks again does so because an answer was lost; it must find the host as it left it.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coat_ryu.node import hook  # noqa: F401  # registers all verbs
from coat_ryu.node.verbs import VERBS
from coat_ryu.remote import Remote, Reply
from mininet_scenarios.lab import Lab
from tests.node.conftest import wait_until
from tests.node.journey import BRIDGE, CLIENT, HOLD, MTU, NETNS, PLACE, RELEASE, Journey
from tests.node.test_migration import ECHO, PYTHON, begin, end

pytestmark = pytest.mark.lab

SAME = {"container_create", "container_inspect", "container_run", "image_inspect"}
SAME |= {"freeze_wait", "receive_open", "receive_wait", "send_image", "send_state"}
SAME |= {
    "lazy_checkpoint",
    "memory_features",
    "pages_wait",
    "reach",
    "epoch_heard",
    "container_list",
}
"""Verbs whose second answer is the first. Others tell what they found the second time: nothing to do, other times."""

ELSEWHERE = {"obey", "obeyed"}
"""What a node is asked for by a controller that it may refuse: test_master."""

AGAIN = {"pages_open"}
"""Verbs that begin anew when they are asked again: the second answer counts."""

UNSEEN = ("freeze_wait", "freeze_pass", "restore_open", "lazy_checkpoint")
"""At the gate nobody looks: it is open for some seconds only, and after ``freeze_pass`` the checkpoint goes on. While a
restore stands, Podman answers nothing about its container. What gave its memory away ends by itself.
"""

LOOK = f"""\
import json, os, subprocess
def out(*argv): return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout
inside = out("nsenter", "--net=/run/netns/{NETNS}", "ip", "-json", "address") or "[]"
links = [
    [one["ifname"], one["mtu"], one["address"], sorted((of["local"], of["prefixlen"]) for of in one["addr_info"])]
    for one in json.loads(inside)
]
containers = [
    [one["Names"], one["Id"], one["State"], one["Pid"]]
    for one in json.loads(out("podman", "ps", "--all", "--format=json") or "[]")
]
storage = "/var/lib/containers/storage/coat"
pagers = sorted(name for name in os.listdir("/run/coat") if name.startswith("pages-"))
print(json.dumps([
    containers, links, sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
    sorted(out("ovs-vsctl", "list-ports", "{BRIDGE}").split()), sorted(os.listdir("/sys/class/net")),
    sorted(os.listdir(storage)) if os.path.isdir(storage) else [], out("podman", "images", "--quiet").split(), pagers,
]))
"""


class Twice:
    """A remote that sends all it is asked twice, and compares the host and the answers. Answers the first time's."""

    def __init__(self, lab: Lab, host: str, remote: Remote, sent: set[str]) -> None:
        self._lab, self._host, self._remote, self._sent = lab, host, remote, sent

    def call(self, verb: str, args: dict[str, Any] | None = None, timeout: float = 30.0) -> Reply:
        first = self._remote.call(verb, args, timeout)
        before = None if verb in UNSEEN else self._look()
        second = self._remote.call(verb, args, timeout)
        assert before is None or self._look() == before, f"{verb} changed something when it was sent again"
        if verb in SAME:
            assert second.result == first.result, verb
        self._sent |= {verb} | {step["verb"] for step in (args or {}).get("steps", ())}
        return second if verb in AGAIN else first

    def _look(self) -> Any:
        return json.loads(self._lab.exec(self._host, ["python3", "-c", LOOK]).stdout)


@pytest.fixture
def journey(lab: Lab, left: Remote, right: Remote) -> Iterator[tuple[Journey, set[str]]]:
    journey, sent = Journey(lab, left, right), set[str]()
    plain = dict(journey.remotes)
    journey.remotes = {name: Twice(lab, name, remote, sent) for name, remote in plain.items()}  # type: ignore[misc]
    journey.set_up()
    yield journey, sent
    journey.remotes = plain
    journey.tear_down()


def test_what_is_said_twice_is_done_once(journey: tuple[Journey, set[str]], lab: Lab) -> None:
    """Whole moves of every kind and a way back, under a connection that goes on."""
    way, sent = journey
    way.run(PYTHON, "python3", "-c", ECHO)
    wait_until(lambda: ":7 " in way.inside("ss", "-Htln"), "the server")
    client = begin(way)
    _ask(way)
    _bring_image(way)
    for ahead in (False, True, False):
        way.move(ahead)
    assert way.where == "right"
    there = way.remotes["right"]
    there.call("neighbour_flush", {"netns": NETNS, "addresses": [CLIENT]})
    _stop_at_the_gate(way)
    way.thaw()
    there.call("thaw", {"name": "server"})
    _together(way)
    _memory_follows(way)
    _take_memory_back(way)
    assert end(client) > 4
    there.call("container_remove", {"name": "server"}, 60)
    there.call("endpoint_remove", PLACE)
    assert sent == set(VERBS) - ELSEWHERE, f"not sent: {set(VERBS) - ELSEWHERE - sent}"


def _ask(way: Journey) -> None:
    """What only looks."""
    here, address = way.remotes["left"], way.addresses["left"]
    for verb in ("container_inspect", "container_needs"):
        here.call(verb, {"name": "server"})
    for verb in ("clock", "container_list", "memory_features"):
        here.call(verb)
    here.call("hello", {"address": address})
    here.call("residue_list", {"bridge": BRIDGE})
    here.call("epoch_heard", {"container": "server"})
    here.call("reach", {"address": way.addresses["right"], "port": 22, "timeout": 5.0})
    found = here.call("image_inspect", {"image": PYTHON}).result
    here.call("image_tag", {"image": found["id"], "name": PYTHON})


class Handed:
    """A move whose parts both hosts are handed before the first begins: they drive each other."""

    def __init__(self, way: Journey) -> None:
        self.way, self.source = way, way.where
        self.destination = "left" if way.where == "right" else "right"
        self.here, self.there = way.remotes[self.source], way.remotes[self.destination]
        hold = {"bridge": BRIDGE, "port": HOLD, "max_packets": 10_000, "max_bytes": 50_000_000}
        self.there.call("hold_open", hold)
        way.endpoint(self.destination)
        way.create(self.destination)
        self.sending, self.waiting = way.open(self.destination)
        self.transfer = {"transfer": self.sending["transfer"]}
        self.standing = {"name": "server", "netns": NETNS, "mtu": MTU, **self.transfer}

    def go(self, checkpoint: str, restore: str, **more: Any) -> None:
        """The checkpoint stops at the gate, the frames are turned away, and the rest follows by itself."""
        self.way.flow(self.destination, f"in_port={HOLD}", PLACE["port"])
        args = {**self.sending, "name": "server", "port": PLACE["port"], **more}
        restoring = {"verb": restore, "args": {**self.standing, "release": RELEASE}}
        steps = [{"verb": "receive_wait", "args": self.waiting}, restoring]
        with ThreadPoolExecutor(2) as pool:
            arrives = pool.submit(self.there.call, "chain", {"steps": steps}, 60)
            goes = pool.submit(self.here.call, checkpoint, args, 60)
            assert self.here.call("freeze_wait", {"name": "server"}).result["frozen_at"] is not None
            self.way.deliver(self.destination, HOLD)
            self.here.call("freeze_pass", {"name": "server"})
            for part in (goes, arrives):
                part.result()
        self.way.deliver(self.destination, PLACE["port"])
        self.there.call("hold_close", {"bridge": BRIDGE, "port": HOLD})

    def leave(self) -> None:
        self.here.call("container_remove", {"name": "server"}, 60)
        self.here.call("endpoint_remove", PLACE)
        for remote in (self.here, self.there):
            remote.call("transfer_discard", self.transfer)
        self.way.where = self.destination


def _together(way: Journey) -> None:
    move = Handed(way)
    move.here.call("send_open", move.sending)
    move.there.call("restore_open", move.standing, 60)
    move.go("checkpoint_send", "restore")
    move.leave()


def _memory_follows(way: Journey) -> None:
    move = Handed(way)
    move.go("lazy_checkpoint", "lazy_restore", pages_to=_open_pages(way, move.destination, move.transfer))
    pages = {**move.transfer, "name": "server", "timeout": 30.0}
    assert move.there.call("pages_wait", pages, 60).result["done"]
    for remote in (move.there, move.here):
        remote.call("pages_discard", move.transfer)
    move.leave()


def _take_memory_back(way: Journey) -> None:
    """What is offered and never fetched is the source's again."""
    move = Handed(way)
    pages_to = _open_pages(way, move.destination, move.transfer)
    args = {**move.sending, "name": "server", "port": PLACE["port"], "pages_to": pages_to}
    with ThreadPoolExecutor(1) as pool:
        goes = pool.submit(move.here.call, "lazy_checkpoint", args, 60)
        assert move.here.call("freeze_wait", {"name": "server"}).result["frozen_at"] is not None
        move.here.call("freeze_pass", {"name": "server"})
        goes.result()
    assert "criu" not in way.lab.exec(move.source, ["ss", "-Hltnp"]).stdout, "whoever comes first is given the memory"
    said = way.lab.exec(
        move.source, ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"], check=False
    ).stdout
    assert "--lazy-pages" in said and "--page-server" not in said
    move.there.call("pages_discard", move.transfer)
    move.here.call("pages_take_back", {**move.transfer, "name": "server"}, 60)
    move.here.call("thaw", {"name": "server"})
    move.there.call("hold_close", {"bridge": BRIDGE, "port": HOLD})
    move.there.call("container_remove", {"name": "server"}, 60)
    move.there.call("endpoint_remove", PLACE)
    for remote in (move.here, move.there):
        remote.call("transfer_discard", move.transfer)


def _open_pages(way: Journey, host: str, transfer: dict[str, str]) -> dict[str, Any]:
    """The pages' receiver at the host, and the keys that both of its pagers have in common with the state's."""
    ends = {"address": way.addresses[host], "tls": way.keys[transfer["transfer"]]}
    opened = way.remotes[host].call("pages_open", {**transfer, **ends}).result
    return {"address": way.addresses[host], **opened}


def _bring_image(way: Journey) -> None:
    sending, waiting = way.open("right", "image")
    way.remotes["left"].call("send_image", {**sending, "image": PYTHON}, 60)
    way.remotes["right"].call("receive_wait", waiting)
    way.remotes["right"].call("transfer_discard", {"transfer": sending["transfer"]})


def _stop_at_the_gate(way: Journey) -> None:
    """A checkpoint that waits to be let through; asked twice whether it is frozen, and let through twice."""
    there = way.remotes["right"]
    hold = {"bridge": BRIDGE, "port": HOLD, "max_packets": 1000, "max_bytes": 1 << 20, "mtu": MTU}
    there.call("hold_open", hold)
    way.flow("right", f"in_port={HOLD}", PLACE["port"])
    checkpoint = threading.Thread(target=there.call, args=("checkpoint", {"name": "server", "port": PLACE["port"]}, 60))
    checkpoint.start()
    assert there.call("freeze_wait", {"name": "server"}).result["frozen_at"] is not None
    way.deliver("right", HOLD)
    there.call("freeze_pass", {"name": "server"})
    checkpoint.join()
    way.thaw(release=RELEASE)
    there.call("hold_release", RELEASE)
    way.deliver("right", PLACE["port"])
    there.call("hold_close", {"bridge": BRIDGE, "port": HOLD})
