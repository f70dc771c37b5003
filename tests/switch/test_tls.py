"""OpenFlow over TLS with real switches, as docs/locks.md sets it up."""

import pytest

from tests.install.certificates import authority, certificate
from tests.switch.scene import TOPOLOGY, bound, eventually

PORTS = {"a": {"t-b": "vxlan", "t-c": "vxlan", "c-one": ""}, "b": {"t-a": "vxlan"}}


@pytest.fixture
def locked(ovs, controller, openflow_port, tmp_path):
    """A controller that wants certificates, and two bridges that have one."""
    authority(tmp_path)
    for name in ("server", "switch"):
        certificate(tmp_path, name)
    authority(tmp_path, "stranger")
    certificate(tmp_path, "mallory", "stranger")
    files = {"privkey": "server.key", "cert": "server.pem"}
    arguments = [f"--ctl-{option}={tmp_path / name}" for option, name in files.items()]
    arguments += [f"--ca-certs={tmp_path / 'ca.pem'}", f"--ofp-ssl-listen-port={openflow_port}"]
    started = controller(TOPOLOGY, [bound("one", "a", 1)], arguments)
    yield started
    for bridge in "ab":
        ovs.vsctl("--if-exists", "del-br", bridge)
    ovs.vsctl("del-ssl")


def connect(ovs, tmp_path, name, openflow_port):
    ovs.vsctl("set-ssl", *(str(tmp_path / file) for file in (f"{name}.key", f"{name}.pem", "ca.pem")))
    for bridge, ports in PORTS.items():
        ovs.add_bridge(bridge, TOPOLOGY.node(bridge).switch, ports, f"ssl:127.0.0.1:{openflow_port}")


def test_every_switch_with_a_certificate_is_kept_up_to_date(locked, ovs, tmp_path, openflow_port):
    connect(ovs, tmp_path, "switch", openflow_port)
    locked.settle(["a", "b"], 30)
    assert len(ovs.flows("a")) == locked.node_status("a")["flows_installed"] > 10


def test_a_switch_with_a_stranger_s_certificate_is_not_let_in(locked, ovs, tmp_path, openflow_port):
    connect(ovs, tmp_path, "mallory", openflow_port)
    eventually(lambda: locked.log().count("was refused") >= 2, "both are refused")
    assert not any(locked.node_status(node)["connected"] for node in "ab")
    assert ovs.flows("a") == []
