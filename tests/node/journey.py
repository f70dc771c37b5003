"""A container that moves between the two hosts, with a client on the left one: a migration without a controller."""

import json
import secrets
import subprocess
from typing import Any

from coat_ryu.keys import one_time_pair
from coat_ryu.remote import Remote
from mininet_scenarios.lab import Lab

BRIDGE = "coat"
MTU = 1400
SERVER, CLIENT = "192.168.50.10", "192.168.50.20"
NETNS, PORT, HOLD = "coat-server", "c-server", "h-server"
RELEASE = {"port": HOLD, "into": PORT, "mac": "02:00:00:00:00:10"}
PLACE = {"bridge": BRIDGE, "netns": NETNS, "port": PORT}
CLIENT_PLACE = {"bridge": BRIDGE, "netns": "coat-client", "port": "c-client"}
STORAGE = "/var/lib/containers/storage"


class Journey:
    """``server`` is the container, which starts on the left; ``where`` is the host that it is on."""

    def __init__(self, lab: Lab, left: Remote, right: Remote) -> None:
        self.lab = lab
        self.remotes = {"left": left, "right": right}
        self.addresses = {name: lab.state.hosts[name].address for name in self.remotes}
        self.where = "left"
        self.keys: dict[str, dict[str, str]] = {}
        self._spec: dict[str, Any] = {}

    # ---- the overlay

    def set_up(self) -> None:
        for number, (name, remote) in enumerate(self.remotes.items(), 1):
            other = self._other(name)
            remote.call("bridge_ensure", {"bridge": BRIDGE, "dpid": f"c0a700000000000{number}", "controllers": []})
            remote.call("tunnels_ensure", {"bridge": BRIDGE, "tunnels": {f"t-{other}": self.addresses[other]}})
        client = {"addresses": [f"{CLIENT}/24"], "mac": "02:00:00:00:00:20", "mtu": MTU}
        self.remotes["left"].call("endpoint_ensure", {**CLIENT_PLACE, **client})
        self.endpoint("left")
        self.flow("left", "in_port=t-right,tun_id=42", "c-client")
        self.deliver("left", PORT)

    def tear_down(self) -> None:
        for name, remote in self.remotes.items():
            remote.call("container_remove", {"name": "server"})
            remote.call("hold_close", {"bridge": BRIDGE, "port": HOLD})
            remote.call("endpoint_remove", PLACE)
            remote.call("endpoint_remove", CLIENT_PLACE)
            self.lab.exec(name, ["ovs-vsctl", "--if-exists", "del-br", BRIDGE])

    def endpoint(self, host: str) -> None:
        server = {"addresses": [f"{SERVER}/24"], "mac": "02:00:00:00:00:10", "mtu": MTU}
        self.remotes[host].call("endpoint_ensure", {**PLACE, **server})

    def flow(self, host: str, match: str, *actions: str) -> None:
        tunnelled = [
            f"set_field:42->tun_id,output:{port}" if port.startswith("t-") else f"output:{port}" for port in actions
        ]
        command = ["ovs-ofctl", "-OOpenFlow13", "--names", "add-flow", BRIDGE, f"{match},actions={','.join(tunnelled)}"]
        self.lab.exec(host, command)

    def deliver(self, host: str, port: str) -> None:
        """The client's frames go to that port on that host, and the server's to the client."""
        if host == "right":
            self.flow("right", "in_port=t-left,tun_id=42", port)
            self.flow("right", f"in_port={PORT}", "t-left")
            self.flow("left", "in_port=c-client", "t-right")
        else:
            self.flow("left", f"in_port={PORT}", "c-client")
            self.flow("left", "in_port=c-client", port)

    # ---- the container

    def run(self, image: str, *command: str) -> None:
        self._spec = {
            "name": "server",
            "image": image,
            "command": list(command),
            "env": {"COLOUR": "green and blue"},
            "netns": NETNS,
            "spec": json.dumps({"image": image}),
        }
        self.remotes["left"].call("container_run", self._spec, 60)

    def create(self, host: str) -> str:
        """The container stands ready at ``host`` for its state."""
        return str(self.remotes[host].call("container_create", self._spec, 60).result["id"])

    def freeze(self) -> dict[str, Any]:
        return dict(self.remotes[self.where].call("checkpoint", {"name": "server"}, 60).result)

    def thaw(self, **more: Any) -> dict[str, Any]:
        """A restore in place, as a rollback does it."""
        args = {"name": "server", "netns": NETNS, "mtu": MTU, **more}
        return dict(self.remotes[self.where].call("restore", args, 60).result)

    def open(self, host: str, what: str = "state") -> tuple[dict[str, Any], dict[str, Any]]:
        """A receiving end at ``host``: the arguments of ``send_...`` and those of ``receive_wait``."""
        transfer = secrets.token_hex(8)
        sender, receiver = one_time_pair(transfer)
        self.keys[transfer] = receiver.as_args()
        args = {"transfer": transfer, "address": self.addresses[host], "tls": receiver.as_args(), "what": what}
        port = self.remotes[host].call("receive_open", args).result["port"]
        to = {"address": self.addresses[host], "port": port}
        return {"transfer": transfer, "to": to, "tls": sender.as_args()}, {"transfer": transfer, "timeout": 30}

    def move(self, ahead: bool = False) -> dict[str, Any]:
        """The whole way to the other host; ``ahead``: connection and restore stand ready before the freeze.

        Returns the results of checkpoint, transfer and restore in one.
        """
        source, destination = self.where, self._other(self.where)
        from_, to = self.remotes[source], self.remotes[destination]
        to.call("hold_open", {"bridge": BRIDGE, "port": HOLD, "max_packets": 10_000, "max_bytes": 50_000_000})
        self.endpoint(destination)
        self.create(destination)
        sending, waiting = self.open(destination)
        self.flow(destination, f"in_port={HOLD}", PORT)
        if ahead:
            from_.call("send_open", sending)
            standing = {"name": "server", "netns": NETNS, "mtu": MTU, "transfer": sending["transfer"]}
            to.call("restore_open", standing, 60)
        frozen = self.freeze()
        self.deliver(destination, HOLD)
        sent = from_.call("send_state", {**sending, "name": "server"}, 60).result
        args = {"name": "server", "transfer": sending["transfer"], "netns": NETNS, "mtu": MTU, "release": RELEASE}
        steps = [{"verb": "receive_wait", "args": waiting}, {"verb": "restore", "args": args}]
        restored = to.call("chain", {"steps": steps}, 60).result["steps"][1]["result"]
        self.deliver(destination, PORT)
        held = to.call("hold_close", {"bridge": BRIDGE, "port": HOLD}).result
        from_.call("container_remove", {"name": "server"}, 60)
        from_.call("endpoint_remove", PLACE)
        for remote in (from_, to):
            remote.call("transfer_discard", {"transfer": sending["transfer"]})
        self.where = destination
        return {**frozen, **sent, **held, **restored}

    # ---- looking at it

    def execute(self, *command: str) -> str:
        return self.lab.exec(self.where, ["podman", "exec", "server", *command]).stdout

    def inside(self, *command: str) -> str:
        """A command in the server's network namespace."""
        return self.lab.exec(self.where, ["nsenter", f"--net=/run/netns/{NETNS}", *command]).stdout

    def client(self, *command: str) -> subprocess.Popen[str]:
        """A command in the client's namespace; its standard output is a pipe."""
        argv = ["nsenter", "--net=/run/netns/coat-client", *command]
        return self.lab.popen("left", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def inspect(self, host: str) -> dict[str, Any] | None:
        result: dict[str, Any] | None = self.remotes[host].call("container_inspect", {"name": "server"}).result
        return result

    @staticmethod
    def _other(host: str) -> str:
        return "right" if host == "left" else "left"
