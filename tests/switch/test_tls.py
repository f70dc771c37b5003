"""OpenFlow over TLS with real switches, as docs/locks.md sets it up."""

import socket
import ssl

import pytest

from tests.install.certificates import authority, certificate, revoke
from tests.switch.rogue import is_closed, rogue
from tests.switch.scene import TOPOLOGY, bound, eventually

PORTS = {"a": {"t-b": "vxlan", "t-c": "vxlan", "c-one": ""}, "b": {"t-a": "vxlan"}}
DPID = int(TOPOLOGY.node("a").switch, 16)


@pytest.fixture
def locked(ovs, controller, openflow_port, tmp_path):
    """A controller that wants certificates, and two bridges of one host that has one for both."""
    authority(tmp_path)
    certificate(tmp_path, "server", usage="serverAuth")
    certificate(tmp_path, "switch", names=("a", "b"), usage="clientAuth")
    for name in ("a", "b", "lost"):
        certificate(tmp_path, name, names=("a",) if name == "lost" else (), usage="clientAuth")
    certificate(tmp_path, "posing", names=("a",), usage="serverAuth")
    revoke(tmp_path, "lost")
    authority(tmp_path, "stranger")
    certificate(tmp_path, "mallory", "stranger", names=("a", "b"))
    files = {"privkey": "server.key", "cert": "server.pem"}
    arguments = [f"--ctl-{option}={tmp_path / name}" for option, name in files.items()]
    arguments += [f"--ca-certs={tmp_path / 'ca.pem'}", f"--ofp-ssl-listen-port={openflow_port}"]
    started = controller(TOPOLOGY, [bound("one", "a", 1)], arguments, crl=tmp_path / "ca.crl")
    yield started
    for bridge in "ab":
        ovs.vsctl("--if-exists", "del-br", bridge)
    ovs.vsctl("del-ssl")


def connect(ovs, tmp_path, name, openflow_port):
    ovs.vsctl("set-ssl", *(str(tmp_path / file) for file in (f"{name}.key", f"{name}.pem", "ca.pem")))
    for bridge, ports in PORTS.items():
        ovs.add_bridge(bridge, TOPOLOGY.node(bridge).switch, ports, f"ssl:127.0.0.1:{openflow_port}")


def client(tmp_path, name):
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    return context


def refusals(locked):
    return locked.call("board.refusals.counts")


def test_every_switch_with_its_node_s_certificate_is_kept_up_to_date(locked, ovs, tmp_path, openflow_port):
    connect(ovs, tmp_path, "switch", openflow_port)
    locked.settle(["a", "b"], 30)
    assert len(ovs.flows("a")) == locked.node_status("a")["flows_installed"] > 10


def test_a_switch_with_a_stranger_s_certificate_is_not_let_in(locked, ovs, tmp_path, openflow_port):
    connect(ovs, tmp_path, "mallory", openflow_port)
    eventually(lambda: refusals(locked)[("", "handshake")] >= 2, "both are refused")
    assert "was refused" in locked.log()
    assert not any(locked.node_status(node)["connected"] for node in "ab")
    assert ovs.flows("a") == []


def test_one_node_s_certificate_is_the_key_to_its_own_switch_alone(locked, ovs, tmp_path, openflow_port):
    connect(ovs, tmp_path, "a", openflow_port)
    locked.settle(["a"], 30)
    eventually(lambda: refusals(locked)[("b", "certificate")] >= 1, "the other bridge is refused")
    assert not locked.node_status("b")["connected"] and ovs.flows("b") == []
    with rogue(openflow_port, DPID, client(tmp_path, "b")) as thief:
        assert is_closed(thief, 10)
    assert refusals(locked)[("a", "certificate")] == 1 and locked.node_status("a")["connected"]


@pytest.mark.parametrize("name", ["lost", "posing"])
def test_what_is_revoked_or_a_server_s_is_no_switch_s_certificate(locked, tmp_path, openflow_port, name):
    with pytest.raises(OSError), rogue(openflow_port, DPID, client(tmp_path, name)):
        pass
    eventually(lambda: refusals(locked)[("", "handshake")] >= 1, "it is refused")


def test_a_switch_takes_no_node_s_certificate_for_the_controller_s(ovs, controller, openflow_port, tmp_path):
    """Open vSwitch asks for no name, only whether it is a server's."""
    authority(tmp_path)
    certificate(tmp_path, "switch", names=("a", "b"), usage="clientAuth")
    certificate(tmp_path, "b", usage="clientAuth")
    arguments = [f"--ctl-privkey={tmp_path / 'b.key'}", f"--ctl-cert={tmp_path / 'b.pem'}"]
    arguments += [f"--ca-certs={tmp_path / 'ca.pem'}", f"--ofp-ssl-listen-port={openflow_port}"]
    posing = controller(TOPOLOGY, [bound("one", "a", 1)], arguments)
    try:
        connect(ovs, tmp_path, "switch", openflow_port)
        eventually(lambda: refusals(posing)[("", "handshake")] >= 2, "both hang up")
        assert not posing.node_status("a")["connected"] and ovs.flows("a") == []
    finally:
        for bridge in "ab":
            ovs.vsctl("--if-exists", "del-br", bridge)
        ovs.vsctl("del-ssl")


def test_garbage_after_the_handshake_ends_that_connection_and_nothing_else(locked, tmp_path, openflow_port):
    with rogue(openflow_port, DPID, client(tmp_path, "a")) as broken:
        eventually(lambda: locked.node_status("a")["connected"], "it has the place")
        with socket.socket(fileno=broken.detach()) as plain:
            plain.sendall(b"no TLS at all" * 100)
            eventually(lambda: not locked.node_status("a")["connected"], "it has lost it")
