"""Every verb that a migration uses, sent twice to a real host: the second time nothing changes.

Whoever asks again does so because an answer was lost; it must find the host as it left it.
"""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coat_ryu import steps
from coat_ryu.node import hook  # noqa: F401  # registers all verbs
from coat_ryu.node.verbs import VERBS
from coat_ryu.remote import Remote, Reply
from mininet_scenarios.lab import Lab
from tests.node.conftest import wait_until
from tests.node.journey import BRIDGE, CLIENT, HOLD, MTU, NETNS, PLACE, RELEASE, Journey
from tests.node.test_migration import ECHO, PYTHON, begin, end

pytestmark = pytest.mark.lab

USED = set(re.findall(r'"(\w+)"', Path(steps.__file__).read_text())) & set(VERBS)
"""What ``steps`` says to a hook."""

SAME = {"container_create", "container_inspect", "container_run", "image_inspect"}
SAME |= {"freeze_wait", "receive_open", "receive_wait", "send_image", "send_state"}
"""Verbs whose second answer is the first. Others tell what they found the second time: nothing to do, other times."""

UNSEEN = ("freeze_wait", "freeze_pass", "restore_open")
"""At the gate nobody looks: it is open for some seconds only, and after ``freeze_pass`` the checkpoint goes on. While a
restore stands, Podman answers nothing about its container.
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
print(json.dumps([
    containers, links, sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else [],
    sorted(out("ovs-vsctl", "list-ports", "{BRIDGE}").split()), sorted(os.listdir("/sys/class/net")),
    sorted(os.listdir(storage)) if os.path.isdir(storage) else [], out("podman", "images", "--quiet").split(),
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
        return first

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


def test_what_is_said_twice_is_done_once(journey: tuple[Journey, set[str]], left: Remote) -> None:
    """A whole move and a way back, under a connection that goes on."""
    way, sent = journey
    way.run(PYTHON, "python3", "-c", ECHO)
    wait_until(lambda: ":7 " in way.inside("ss", "-Htln"), "the server")
    client = begin(way)
    here = way.remotes["left"]
    for verb in ("container_inspect", "container_needs"):
        here.call(verb, {"name": "server"})
    found = here.call("image_inspect", {"image": PYTHON}).result
    here.call("image_tag", {"image": found["id"], "name": PYTHON})
    here.call("hello", {"address": way.addresses["left"]})
    here.call("reach", {"address": way.addresses["right"], "port": 22, "timeout": 5.0})
    here.call("residue_list", {"bridge": BRIDGE})
    here.call("epoch_heard", {"container": "server"})
    for verb in ("clock", "container_list", "memory_features"):
        here.call(verb)
    _bring_image(way)
    for ahead in (False, True, False):
        way.move(ahead)
    assert way.where == "right"
    there = way.remotes["right"]
    there.call("neighbour_flush", {"netns": NETNS, "addresses": [CLIENT]})
    _stop_at_the_gate(way)
    way.thaw()
    there.call("thaw", {"name": "server"})
    assert end(client) > 4
    there.call("container_remove", {"name": "server"}, 60)
    there.call("endpoint_remove", PLACE)
    assert sent >= USED, f"not sent: {USED - sent}"


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
