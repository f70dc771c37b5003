"""Tunnels of a node, on an Open vSwitch that remembers what it was told."""

import json
from typing import Any

import pytest

from coat_ryu.node import vswitch


class Database:
    """What ``ovs-vsctl`` says and is told: one tunnel at the most."""

    def __init__(self, datapath: str) -> None:
        self.datapath = datapath
        self.options: dict[str, str] | None = None

    def __call__(self, *arguments: str) -> str:
        if arguments[:2] == ("get", "bridge"):
            return f"{self.datapath}\n"
        if arguments[0] == "list-ports":
            return "t-a\n" if self.options else ""
        if "find" in arguments:
            row = ["t-a", ["map", list((self.options or {}).items())], ["map", [["coat", "tunnel"]]]]
            return json.dumps({"headings": ["name", "options", "external_ids"], "data": [row] if self.options else []})
        (options,) = (word.removeprefix("options=") for word in arguments if word.startswith("options="))
        self.options = dict(one.split("=") for one in options.split(","))
        return ""


@pytest.mark.parametrize(
    ("datapath", "local", "end"),
    [
        ("system", "127.0.0.1", "127.0.0.1"),
        ('""', "127.0.0.1", "127.0.0.1"),  # the kernel's is Open vSwitch's default
        ("system", "203.0.113.9", None),  # no interface has it: an address translation is in between
        ("netdev", "127.0.0.1", None),
    ],
)
def test_tunnel_listens_at_the_node_s_own_end_alone(
    monkeypatch: pytest.MonkeyPatch, datapath: str, local: str, end: str | None
) -> None:
    database = Database(datapath)
    monkeypatch.setattr(vswitch, "vsctl", database)

    def ensure(**more: Any) -> Any:
        return vswitch.tunnels_ensure(bridge="test", tunnels={"t-a": "10.9.0.7"}, **more)

    assert ensure() == {"added": ["t-a"], "removed": []}
    assert database.options == {"key": "flow", "remote_ip": "10.9.0.7"}
    assert ensure(local=local)["added"] == (["t-a"] if end else [])
    assert database.options.get("local_ip") == end
    assert ensure(local=local) == {"added": [], "removed": []}
