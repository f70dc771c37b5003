"""A real node obeys one controller, remembers it over a reboot, and tells what it has heard."""

from collections.abc import Iterator

import pytest

from coat_ryu.errors import NodeError, NodeUnreachable
from coat_ryu.remote import Remote
from coat_ryu.voice import Voice
from mininet_scenarios.lab import Lab
from tests.node.conftest import Connection, login

BRIDGE, CONTAINER = "coat-m", "master-test"
OURS = {"bridge": BRIDGE, "journal": "a" * 32, "start": 1, "run": "1" * 32}
THEIRS = {"bridge": BRIDGE, "journal": "b" * 32, "start": 7, "run": "2" * 32}
CHANGE = {"bridge": BRIDGE, "tunnels": {}}


@pytest.fixture
def second(lab: Lab) -> Iterator[Remote]:
    """Another controller's connection to the same node."""
    with Connection("left", login(lab, "left")) as remote:
        yield remote
    lab.exec(
        "left",
        ["sh", "-c", f"rm -f /run/coat/master* /run/coat/epochs/{CONTAINER}; ovs-vsctl --if-exists del-br {BRIDGE}"],
    )


def test_a_node_obeys_one_controller_until_another_takes_over(lab: Lab, left: Remote, second: Remote) -> None:
    assert left.call("obey", OURS).result == {"before": None}
    mark = f"{OURS['journal']}.{OURS['start']}.{OURS['run']}"
    bridge = {"bridge": BRIDGE, "dpid": "00000000000000aa", "controllers": ["tcp:127.0.0.1:6653"], "master": mark}
    left.call("bridge_ensure", bridge)

    def refused(remote: Remote, verb: str, args: object) -> None:
        with pytest.raises(NodeError) as error:
            remote.call(verb, args)  # type: ignore[arg-type]
        assert error.value.cause == "other_controller"

    refused(second, "obey", THEIRS)
    with pytest.raises(NodeUnreachable):
        second.call("tunnels_ensure", CHANGE)
    assert second.call("container_inspect", {"name": "nobody"}).result is None, "it may look"
    lab.exec("left", ["rm", "/run/coat/master"])  # as a reboot does
    refused(second, "obey", THEIRS)
    assert second.call("obeyed", {"bridge": BRIDGE}).result == {"journal": OURS["journal"], "start": 1}

    assert second.call("obey", {**THEIRS, "take_over": True}).result == {"before": "journal aaaaaaaa, start 1"}
    second.call("tunnels_ensure", CHANGE)
    refused(left, "tunnels_ensure", CHANGE)
    refused(left, "chain", {"steps": [{"verb": "tunnels_ensure", "args": CHANGE}]})
    assert left.call("obey", {**OURS, "start": 2, "take_over": True}).result == {"before": "journal bbbbbbbb, start 7"}


class Behind:
    """The counter of a journal that was lost."""

    def count(self, name: str, above: int = 0) -> int:
        return above + 1


def test_who_knows_less_than_the_node_goes_above_it(left: Remote, second: Remote) -> None:
    heard = 1_900_000_000_000
    left.call("clock", {"fence": {"container": CONTAINER, "epoch": heard}})
    assert left.call("epoch_heard", {"container": CONTAINER}).result == {"epoch": heard}
    voice = Voice(CONTAINER, Behind())
    with pytest.raises(NodeError) as error:
        second.call("clock", voice.fenced({}))
    assert error.value.cause == "fenced"
    voice.call(second, "clock", {}, 10.0)
    assert voice.epoch == heard + 1
