"""The matrix of ``make faults``: at which step of which mode what goes wrong, and where."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

from mininet_scenarios.sabotage import Reaction

MODES = ("prepared", "parallel", "sequential")
LAZY = "lazy"
"""``prepared``, and the memory follows the container."""

# step: the end at which its work is done, and the command line that does it; in which modes it is a step of its own
SOURCE, DESTINATION = "source", "destination"
TRAPS: dict[str, tuple[str, str]] = {
    "preflight": (DESTINATION, "podman inspect --type=container *"),
    "image": (DESTINATION, "podman inspect --type=image *"),
    "hold": (DESTINATION, "ovs-vsctl * add-port coat h-*"),
    "create_namespace": (DESTINATION, "ovs-vsctl * add-port coat c-*"),
    "prepare": (DESTINATION, "podman * create *"),
    "restore_open": (DESTINATION, "podman container restore *"),
    "checkpoint": (SOURCE, "podman container checkpoint *"),
    "criu_dump": (SOURCE, "criu swrk *"),
    "clear_namespace": (SOURCE, "ovs-vsctl * del-port coat c-*"),
    "restore": (DESTINATION, "runc *restore *"),
    "criu_restore": (DESTINATION, "criu swrk *"),
    "finish": (SOURCE, "podman rm *"),
}
HOUR = 3600.0
CLOCKS: dict[str, tuple[str, float, bool]] = {
    "controller_clock_back": ("controller", -HOUR, False),
    "controller_clock_forth": ("controller", HOUR, False),
    "node_clock_back": ("node", -HOUR, False),
    "node_clock_forth": ("node", HOUR, False),
    "clock_back_and_killed": ("controller", -HOUR, True),
}
"""Kind: whose clock is set, by how many seconds, and whether the controller is killed then. ``node``: the step's."""
KINDS: dict[str, Reaction] = {
    "fails": "fail",
    "hangs": "hang",
    "controller_killed_before": "before",
    "controller_killed_during": "during",
    "controller_killed_after": "after",
    "ssh_lost": "before",
    "hook_killed": "before",
    **dict.fromkeys(CLOCKS, "before"),
}
CRIU_KINDS: dict[str, Reaction] = {"fails": "fail", "late": "late"}
"""CRIU's own. ``late``: it begins its work when whoever called it has been given up."""

KINDS_OF = {"criu_dump": CRIU_KINDS, "criu_restore": CRIU_KINDS, "restore": KINDS | CRIU_KINDS}
AHEAD = ("prepare", "restore_open")
LAZY_TRAPS = {step: TRAPS[step] for step in ("prepare", "criu_dump", "restore", "criu_restore", "finish")} | {
    "checkpoint": (SOURCE, "runc *checkpoint *")
}
"""What is done in another way then. A host that is lost takes what is still there of the memory with it."""

# kind: the step whose beginning is its moment, and where it strikes
SPECIALS: dict[str, tuple[str, str]] = {
    "disk_full_source": ("checkpoint", SOURCE),
    "disk_full_destination": ("checkpoint", DESTINATION),
    "ovs_restarted_source": ("checkpoint", SOURCE),
    "ovs_restarted_destination": ("checkpoint", DESTINATION),
    "openflow_lost_source": ("checkpoint", SOURCE),
    "openflow_lost_destination": ("checkpoint", DESTINATION),
    "network_cut": ("checkpoint", SOURCE),
}
MOMENTS = {f"{at:.1f}s": at for at in (0.1, 0.4, 0.7, 1.0, 1.3)}
"""Seconds after the request at which the controller is killed wherever it may be then."""
LOSSES = {"destination_gone": ("restore", DESTINATION), "source_gone": ("restore", SOURCE)}
"""Each costs its lab a host for good."""
WIRE, WIRE_STEPS = ("cut_off", "corrupted"), ("image", "transfer")
"""What happens to the connection between the two hooks when it has carried some of the image, or of the state."""
OBSTACLES = {
    "image_missing": "image",
    "image_gone": "image",
    "name_in_use": "preflight",
    "name_of_another": "preflight",
    "address_in_use": "create_namespace",
}
"""Kind: the step that meets what was in the way before the migration began (``obstacles``)."""

PAIRS: dict[str, tuple[str, tuple[tuple[str, str], tuple[str, str]]]] = {
    "refused_twice": ("restore", ((DESTINATION, "runc *restore *"), (SOURCE, "podman container restore *"))),
    "undo_fails": ("checkpoint", ((SOURCE, "criu swrk *"), (DESTINATION, "podman rm *"))),
    "undo_namespace_fails": (
        "create_namespace",
        ((SOURCE, "criu swrk *"), (DESTINATION, "ovs-vsctl * del-port coat c-*")),
    ),
}
"""Kind: its step, and the two commands that fail once each: a step, and one of the way back."""
ENDINGS = {
    "container_killed": ("hold", "restore_open", "checkpoint", "criu_dump"),
    "container_stopped": ("hold", "checkpoint"),
    "container_removed": ("hold", "restore_open", "checkpoint"),
}
"""Kind: the steps at which it happens to the container by hand, on the source, before it is frozen."""
ENDING = "ending"
"""The container of these cases."""


@dataclass(frozen=True, slots=True)
class Case:
    step: str
    mode: str
    kind: str

    def __str__(self) -> str:
        return f"{self.step}/{self.mode}/{self.kind}"

    @property
    def trap(self) -> tuple[str, str, Reaction] | None:
        """End, command line and reaction of the trap that is laid for it, if one is."""
        if self.kind in (*WIRE, *OBSTACLES, *PAIRS) or self.step not in TRAPS:
            return None
        traps = LAZY_TRAPS if self.mode == LAZY else TRAPS
        return (*traps[self.step], (KINDS | CRIU_KINDS).get(self.kind, "before"))

    @property
    def request(self) -> dict[str, str]:
        """What ``POST /migrate`` is told besides the container and where to."""
        return {"mode": "prepared", "memory": "lazy"} if self.mode == LAZY else {"mode": self.mode}

    @property
    def brings_image(self) -> bool:
        """Whether it needs a container whose image the destination lacks."""
        return self.step == "image" and self.kind in (*WIRE, *OBSTACLES)


def _all() -> Iterator[Case]:
    for mode in MODES:
        for step in TRAPS:
            if step in AHEAD and mode != "prepared":
                continue  # there it belongs to the restore
            yield from (Case(step, mode, kind) for kind in KINDS_OF.get(step, KINDS))
        yield from (Case(moment, mode, "controller_killed") for moment in MOMENTS)
        yield from (Case(step, mode, kind) for kind, (step, _) in SPECIALS.items())
        yield from (Case(step, mode, kind) for step in WIRE_STEPS for kind in WIRE)
        yield from (Case(step, mode, kind) for kind, step in OBSTACLES.items())
        yield from (
            Case(step, mode, kind) for kind, (step, _) in PAIRS.items() if mode == "prepared" or kind == "refused_twice"
        )
        for kind, steps in ENDINGS.items():
            yield from (Case(step, mode, kind) for step in steps if mode == "prepared" or step not in AHEAD)
        yield from (Case(step, mode, kind) for kind, (step, _) in LOSSES.items())
    for step in LAZY_TRAPS:
        yield from (Case(step, LAZY, kind) for kind in KINDS_OF.get(step, KINDS))
    yield from (Case(moment, LAZY, "controller_killed") for moment in MOMENTS)
    yield from (Case(step, LAZY, kind) for kind, (step, _) in SPECIALS.items())


def cases(pattern: str = "*") -> Iterator[Case]:
    """The matrix; those whose ``step/mode/kind`` fits the shell pattern."""
    return (case for case in _all() if fnmatch.fnmatch(str(case), pattern))
