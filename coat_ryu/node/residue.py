"""What of ours is on this node, whoever made it: the controller compares it with what should be there."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from coat_ryu.node import lazy, netns, podman, vswitch
from coat_ryu.node.endpoint import PREFIX
from coat_ryu.node.verbs import Ifname, verb

INTERFACES = Path("/sys/class/net")
HOLD_PREFIX = "h-"


@verb
def residue_list(*, bridge: Ifname) -> dict[str, Any]:
    """Everything that carries our mark: ``containers`` (name to state), ``namespaces`` (without their prefix),
    ``ports`` (container ports of the bridge: port to container), ``holds`` (TAPs and their ports) and ``transfers``,
    of a state or of pages.
    """
    ours = podman.container_list()
    ports = vswitch.our_ports(bridge, "container")
    return {
        "containers": {entry["name"]: entry["state"] for entry in ours},
        "namespaces": _names(netns.DIRECTORY, PREFIX),
        "ports": {port: (row["external_ids"] or {}).get("coat-name") for port, row in ports.items()},
        "holds": sorted({*vswitch.our_ports(bridge, "hold"), *_taps()}),
        "transfers": sorted({*_names(podman.graph_root() / "coat"), *_names(lazy.DIRECTORY, lazy.PREFIX)}),
    }


def _names(directory: Path, prefix: str = "") -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(path.name.removeprefix(prefix) for path in directory.iterdir() if path.name.startswith(prefix))
    return []


def _taps() -> list[str]:
    return [path.name for path in INTERFACES.glob(f"{HOLD_PREFIX}*") if (path / "tun_flags").exists()]
