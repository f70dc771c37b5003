"""Nodes and switches that exist in memory only: what the hook's verbs do, without doing it.

``World`` is the truth that tests look at: which copies run where, and what is left lying about.
"""

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coat_ryu.errors import NodeError, NodeUnreachable, NotFound
from coat_ryu.model import Binding
from coat_ryu.node.master import LOOKING, Master, objection

PATIENCE = 5.0


@dataclass
class FakeReply:
    result: Any
    started_at: float = 0.0
    finished_at: float = 0.0
    remote_overhead_s: float = 0.001


@dataclass
class FakeNode:
    """One host's state, and the hook's verbs on it."""

    name: str
    world: "World"
    images: dict[str, str] = field(default_factory=dict)  # name to id; one without a name has its id for one
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    taps: set[str] = field(default_factory=set)
    transfers: dict[str, threading.Event] = field(default_factory=dict)
    discarded: set[str] = field(default_factory=set)
    early: set[str] = field(default_factory=set)
    standing: dict[str, str] = field(default_factory=dict)
    pagers: set[str] = field(default_factory=set)
    giving: set[str] = field(default_factory=set)
    memory_lost: bool = False
    lazy_pages: str | None = None
    turns: bool = True  # whether its switch can be turned by itself
    epochs: dict[str, int] = field(default_factory=dict)
    master: Master | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def do(self, verb: str, args: dict[str, Any]) -> Any:
        """One verb. Those that wait for another node hold no lock meanwhile."""
        args = dict(args)
        fence = args.pop("fence", None)
        if verb in ("chain", "receive_wait", "send_state"):
            self._check(fence, verb)
            return getattr(self, verb)(**args)
        with self.lock:
            self._check(fence, verb)
            return getattr(self, verb)(**args)

    def _check(self, fence: dict[str, Any] | None, verb: str) -> None:
        if fence is None:
            self.world.unfenced.append((self.name, verb))
            return
        if fence["epoch"] < self.epochs.get(fence["container"], 0):
            raise NodeError("fenced: a later controller has spoken", node=self.name, cause="fenced")
        self.epochs[fence["container"]] = fence["epoch"]

    def fail(self, message: str) -> NodeError:
        return NodeError(message, node=self.name)

    def chain(self, steps: list[dict[str, Any]]) -> Any:
        done = []
        for step in steps:
            result = self.world.call(self, step["verb"], step["args"])
            done.append({"verb": step["verb"], "result": result, "started_at": 1.0, "finished_at": 2.0})
        return {"steps": done}

    def container_inspect(self, name: str) -> Any:
        return self.containers.get(name)

    def container_needs(self, name: str) -> Any:
        if name not in self.containers:
            return None
        return {**self.containers[name], "memory": 1, "layer": 1, "pod": None, "mounts": [], "devices": []}

    def hello(self, address: str | None = None) -> Any:
        versions = {"criu": "4.2.1", "podman": "5.4.2", "runtime": "runc 1.1.15"}
        return {
            "controller": "127.0.0.1",
            "versions": versions,
            "cpu_flags": ["x"],
            "memory_free": 1 << 30,
            "disk_free": 1 << 30,
        }

    def clock(self) -> float:
        return 0.0

    def bridge_ensure(self, **_: Any) -> Any:
        return {"datapath": "netdev"}

    def tunnels_ensure(self, **_: Any) -> Any:
        return {"added": [], "removed": []}

    def obey(self, bridge: str, take_over: bool, **who: Any) -> Any:
        new, before = Master(**who), self.master
        reason = objection(before, new)
        if reason is not None and not take_over:
            raise NodeError(reason, node=self.name, cause="other_controller")
        self.master = new
        return {"before": None if before is None else str(before)}

    def epoch_heard(self, container: str) -> Any:
        return {"epoch": self.epochs.get(container, 0)}

    def reach(self, address: str, port: int, timeout: float) -> Any:
        return {"reached": self.world.reached}

    def container_list(self) -> Any:
        return list(self.containers.values())

    def residue_list(self, bridge: str) -> Any:
        return {
            "containers": {name: entry["state"] for name, entry in self.containers.items()},
            "namespaces": [name.removeprefix("coat-") for name in self.endpoints],
            "ports": {entry["port"]: name.removeprefix("coat-") for name, entry in self.endpoints.items()},
            "holds": sorted(self.taps),
            "transfers": sorted({*self.transfers, *self.pagers}),
        }

    def container_create(self, name: str, image: str, spec: str, **_: Any) -> Any:
        image_id = self.image_inspect(image)["id"]
        if image_id is None:
            raise self.fail(f"no image {image}")
        asked_for = json.loads(spec)
        made = {"name": name, "id": "1", "image": asked_for["image"], "image_id": image_id, "state": "created"}
        self.containers.setdefault(name, {**made, "spec": asked_for})
        return {"id": "1"}

    def container_run(self, name: str, netns: str, **args: Any) -> Any:
        if netns not in self.endpoints:
            raise self.fail(f"no namespace {netns}")
        self.container_create(name=name, **args)
        self.containers[name]["state"] = "running"
        return {"id": "1"}

    def container_remove(self, name: str) -> Any:
        self.standing.pop(name, None)
        return {"removed": self.containers.pop(name, None) is not None}

    def endpoint_ensure(self, netns: str, **args: Any) -> Any:
        created = netns not in self.endpoints
        self.endpoints[netns] = args
        return {"created": created}

    def endpoint_remove(self, netns: str, **_: Any) -> Any:
        return {"removed": self.endpoints.pop(netns, None) is not None}

    def neighbour_flush(self, netns: str, addresses: list[str]) -> Any:
        return {"flushed": len(addresses) if netns in self.endpoints else 0}

    def image_inspect(self, image: str) -> Any:
        return {"id": self.images.get(image, image if image in self.images.values() else None), "size": 1}

    def image_tag(self, image: str, name: str) -> Any:
        if image not in self.images.values():
            raise self.fail(f"no image {image}")
        free = name not in self.images
        if free:
            self.images.pop(image, None)
            self.images[name] = image
        return {"tagged": free}

    def hold_open(self, port: str, **_: Any) -> Any:
        self.taps.add(port)
        return {}

    def hold_release(self, port: str, **_: Any) -> Any:
        return {"held": 3, "replayed": 3, "dropped": 0}

    def hold_close(self, port: str, **_: Any) -> Any:
        self.taps.discard(port)
        return {"held": 4, "replayed": 4, "dropped": 0}

    def receive_open(self, transfer: str, what: str, **_: Any) -> Any:
        self.transfers.setdefault(transfer, threading.Event())
        return {"port": self.world.listen(self, transfer)}

    def receive_wait(self, transfer: str, **_: Any) -> Any:
        event = self.transfers.get(transfer)
        if event is None or not event.wait(PATIENCE) or transfer in self.discarded:
            raise self.fail(f"transfer {transfer} did not arrive")
        return {"bytes": 7, "sha256": "00"}

    def send_open(self, transfer: str, to: dict[str, Any], **_: Any) -> Any:
        receiver, _name = self.world.listening[to["port"]]
        if transfer not in receiver.transfers:
            raise self.fail("nobody listens")
        self.early.add(transfer)
        return {}

    def restore_open(self, name: str, netns: str, transfer: str, **_: Any) -> Any:
        if name not in self.containers or netns not in self.endpoints or transfer not in self.transfers:
            raise self.fail(f"nothing to restore {name} into")
        self.standing[name] = transfer
        return {}

    def transfer_discard(self, transfer: str) -> Any:
        self.early.discard(transfer)
        self.standing = {name: one for name, one in self.standing.items() if one != transfer}
        event = self.transfers.pop(transfer, None)
        if event is not None:
            self.discarded.add(transfer)
            event.set()
        return {"removed": event is not None}

    def send_image(self, transfer: str, image: str, to: dict[str, Any], name: str = "", **_: Any) -> Any:
        receiver, _name = self.world.listening[to["port"]]
        receiver.images.setdefault(image, image)
        receiver.transfers[transfer].set()
        return {"bytes": 9, "sha256": "00", "name": name if self.images.get(name) == image else None}

    def send_state(self, transfer: str, name: str, to: dict[str, Any], **_: Any) -> Any:
        if self.containers.get(name, {}).get("state") not in ("checkpointed", "paused"):
            raise self.fail(f"{name} has no checkpoint")
        self.early.discard(transfer)
        receiver, _name = self.world.listening[to["port"]]
        if transfer in receiver.transfers:
            receiver.transfers[transfer].set()
        return {"bytes": 7, "sha256": "00"}

    def thaw(self, name: str) -> Any:
        here = self.containers.get(name)
        if here is not None and here["state"] == "paused":
            if here["name"] in self.giving:
                raise self.fail(f"{name} is thawed though its memory is still given away")
            here["state"] = "running"
        return {"thawed": True}

    def memory_features(self) -> Any:
        return {"lazy": self.lazy_pages, "dirty_tracking": False}

    def pages_open(self, transfer: str, **_: Any) -> Any:
        self.pagers.add(transfer)
        return {"port": 1}

    def lazy_checkpoint(self, name: str, transfer: str, to: dict[str, Any], **_: Any) -> Any:
        """The processes are frozen, and live until the last page has gone."""
        here = self.containers.get(name)
        if here is None or here["state"] != "running":
            raise self.fail(f"{name} does not run")
        here["state"] = "paused"
        self.giving.add(name)
        self.pagers.add(transfer)
        done = {"bytes": 7, "frozen_at": 10.0, "finished_at": 10.1, "criu": {}}
        return {"checkpoint": done, "sent": self.send_state(transfer, name, to)}

    def lazy_restore(self, transfer: str, **args: Any) -> Any:
        if transfer not in self.pagers and self.containers.get(args["name"], {}).get("state") != "running":
            raise self.fail("no pages are expected")
        return self.restore(transfer=transfer, **args)

    def pages_wait(self, transfer: str, name: str, timeout: float) -> Any:
        if self.memory_lost:
            self.containers[name]["state"] = "stopped"
            raise NodeError("the pages stopped coming", node=self.name, cause="memory_lost")
        for other in self.world.nodes.values():
            if name in other.giving:
                other.giving.discard(name)
                other.pagers.discard(transfer)
                other.containers[name]["state"] = "stopped"
        self.pagers.discard(transfer)
        return {"done": True, "bytes": 8}

    def pages_take_back(self, transfer: str, name: str) -> Any:
        self.giving.discard(name)
        self.pagers.discard(transfer)
        return {"mended": 1}

    def pages_discard(self, transfer: str) -> Any:
        self.pagers.discard(transfer)
        return {"removed": True}

    def freeze_wait(self, name: str, attempt: str) -> Any:
        return {"frozen_at": 10.0, "turned_s": 0.001 if self.turns else None}

    def freeze_pass(self, name: str) -> Any:
        return {"passed": True}

    def checkpoint(self, name: str, port: str, **_: Any) -> Any:
        here = self.containers.get(name)
        if here is None or here["state"] not in ("running", "checkpointed"):
            raise self.fail(f"{name} does not run")
        here["state"] = "checkpointed"
        return {"bytes": 7, "frozen_at": 10.0, "finished_at": 10.1, "criu": {}}

    def checkpoint_send(self, name: str, port: str, transfer: str, to: dict[str, Any], **_: Any) -> Any:
        done = self.checkpoint(name, port)
        return {"checkpoint": done, "sent": self.send_state(transfer, name, to)}

    def restore(self, name: str, transfer: str | None, netns: str, **_: Any) -> Any:
        self.standing.pop(name, None)
        here = self.containers.get(name)
        if here is None or netns not in self.endpoints:
            raise self.fail(f"nothing to restore {name} into")
        if here["state"] == "running":
            return {"id": "1", "resumed_at": 10.5, "criu": {}}
        if transfer is None and here["state"] not in ("checkpointed", "running"):
            raise NodeError(f"{name} has ended", node=self.name, cause="has_ended")
        if transfer is not None and not (transfer in self.transfers and self.transfers[transfer].is_set()):
            raise self.fail(f"no state of {name} has arrived")
        here["state"] = "running"
        return {"id": "1", "resumed_at": 10.5, "criu": {}}


class World:
    """All nodes. ``before`` and ``after`` are called around every verb, and may raise to break it.

    What ``again`` says yes to is delivered twice, and only the second answer arrives; ``repeated`` has each such verb
    with the snapshots before and after its second delivery. Nodes that are ``dark`` work, and no controller hears of
    it; ``reached`` is what other nodes say of them.
    """

    def __init__(self, *names: str) -> None:
        self.nodes = {name: FakeNode(name, self) for name in names}
        self.listening: dict[int, tuple[FakeNode, str]] = {}
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[int, str, str], None] = lambda number, node, verb: None
        self.after: Callable[[int, str, str], None] = lambda number, node, verb: None
        self.again: Callable[[str, str], bool] = lambda node, verb: False
        self.repeated: list[tuple[str, Any, Any]] = []
        self.unfenced: list[tuple[str, str]] = []
        self.most_copies = 0
        self.dark: set[str] = set()
        self.reached = True
        self._lock = threading.Lock()

    def listen(self, node: FakeNode, transfer: str) -> int:
        port = 1000 + len(self.listening)
        self.listening[port] = (node, transfer)
        return port

    def call(self, node: FakeNode, verb: str, args: dict[str, Any]) -> Any:
        with self._lock:
            number = len(self.calls)
            self.calls.append((node.name, verb))
        self.before(number, node.name, verb)
        result = node.do(verb, args)
        self.most_copies = max(self.most_copies, len(self.running("web")))
        self.after(number, node.name, verb)
        return result

    def snapshot(self) -> Any:
        """All that is anywhere."""
        return copy.deepcopy(
            [
                (node.images, node.containers, node.endpoints, node.taps, set(node.transfers), node.discarded)
                for node in self.nodes.values()
            ]
        )

    def running(self, name: str) -> list[str]:
        return [node.name for node in self.nodes.values() if node.containers.get(name, {}).get("state") == "running"]

    def residue(self, home: str) -> list[str]:
        """What is anywhere but where the one container lives, and should not be."""
        left = [f"{node.name}: tap {tap}" for node in self.nodes.values() for tap in node.taps]
        left += [f"{node.name}: pager {key}" for node in self.nodes.values() for key in node.pagers]
        left += [f"{node.name}: transfer {key}" for node in self.nodes.values() for key in node.transfers]
        left += [f"{node.name}: connection {key}" for node in self.nodes.values() for key in node.early]
        left += [f"{node.name}: restore of {name}" for node in self.nodes.values() for name in node.standing]
        for node in self.nodes.values():
            if node.name != home:
                left += [f"{node.name}: container {name}" for name in node.containers]
                left += [f"{node.name}: namespace {name}" for name in node.endpoints]
        return left


class Killed(SystemExit):
    """The controller is dead: no thread of it goes on (threading keeps quiet about a SystemExit)."""


class FakeRemote:
    """``nodes.Remote`` onto a FakeNode. When its controller is killed the node goes on; only the answer has no
    reader.
    """

    connected = True
    clock_offset = 0.0

    def __init__(self, node: FakeNode, killed: threading.Event) -> None:
        self._node = node
        self._killed = killed
        self._ours: Master | None = None
        node.early.clear()  # what lives in a hook ends with its connection, and this one is new
        node.standing.clear()

    def call(self, verb: str, args: dict[str, Any] | None = None, timeout: float = 30.0) -> FakeReply:
        if self._killed.is_set():
            raise Killed
        self._raise_if_dark(verb)
        if verb not in LOOKING and self._node.master not in (None, self._ours):
            raise NodeError(f"{verb}: not ours", node=self._node.name, cause="other_controller")
        result = self._node.world.call(self._node, verb, dict(args or {}))
        if verb == "obey":
            self._ours = self._node.master
        if self._node.world.again(self._node.name, verb):
            before = self._node.world.snapshot()
            result = self._node.world.call(self._node, verb, dict(args or {}))
            self._node.world.repeated.append((verb, before, self._node.world.snapshot()))
        if self._killed.is_set():
            raise Killed
        self._raise_if_dark(verb)
        return FakeReply(result)

    def _raise_if_dark(self, verb: str) -> None:
        if self._node.name in self._node.world.dark:
            # what lives in a hook ends with the connection that carries it
            self._node.early.clear()
            self._node.standing.clear()
            raise NodeUnreachable(f"node {self._node.name} is dark", node=self._node.name, command=verb)

    def start(self) -> None: ...

    def close(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {"connected": True, "error": None}


class FakeLoan:
    messages, sift, unsift = (b"turn!",), (b"sift!",), (b"back!",)

    def __init__(self, fabric: "FakeFabric") -> None:
        self._fabric = fabric

    def made(self) -> None:
        self._fabric.turned += 1

    def void(self) -> None: ...


class FakeFabric:
    """Remembers bindings; every switch follows at once."""

    def __init__(self) -> None:
        self.switch_problems: dict[str, str] = {}
        self.bindings: dict[str, Binding] = {}
        self.announced: list[Binding] = []
        self.doubted: list[str] = []
        self.cut_overs = self.turned = 0

    def bind(self, binding: Binding) -> "FakeFabric":
        self.bindings[binding.container] = binding
        return self

    def wait(self, timeout: float) -> None: ...

    def unbind(self, container: str) -> None:
        self.bindings.pop(container, None)

    def cut_over(self, binding: Binding, timeout: float) -> None:
        self.cut_overs += 1
        self.bindings[binding.container] = binding

    def wait_port(self, node: str, port: str, timeout: float) -> None: ...

    def lend(self, container: str) -> "FakeLoan":
        return FakeLoan(self)

    def doubt(self, node: str, container: str) -> None:
        self.doubted.append(node)

    def announce(self, binding: Binding) -> int:
        self.announced.append(binding)
        return 1

    def node_status(self, node: str) -> dict[str, Any]:
        return {"connected": True, "in_sync": True}

    def switch_problem(self, node: str) -> str | None:
        return self.switch_problems.get(node)

    unanswered = switch_problem

    def binding(self, container: str) -> Binding:
        if container not in self.bindings:
            raise NotFound(container)
        return self.bindings[container]
