"""What an experiment is: a setting of hosts and links, a list of runs by key, and how one of them is made."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_ryu.model import Mode
from coat_ryu.saga import unix_time
from mininet_scenarios.experiment import Controller, Run, run
from mininet_scenarios.place import Place
from mininet_scenarios.workloads import Iperf3, Sockperf, Workload

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
MODES: tuple[Mode, ...] = ("prepared", "parallel", "sequential")
SOURCE, DESTINATION, DEVICE = "edge1", "edge2", "device"

BEFORE, AFTER = 2.0, 1.2
"""Seconds that a client runs before the migration is asked for, and after it at the least. sockperf does not log its
first 0.4 s; the 80 round trips before a migration take 1.8 s.
"""
FIRST_GUESS = 4.0
"""Seconds that a migration may take before one was seen."""


@dataclass(frozen=True)
class Setting:
    """Hosts and links (a topology file), and options of the controller's ``[coat]`` group."""

    name: str
    topology: Path
    options: tuple[tuple[str, str], ...] = ()


LATENCY = Setting("latency", TOPOLOGIES / "paper-latency.yaml")
THROUGHPUT = Setting("throughput", TOPOLOGIES / "paper-throughput.yaml")
ROAD = Setting("road", TOPOLOGIES / "road.yaml")


class Scene:
    """Hosts that are up, and what experiments do there. Containers and addresses are those of topologies/paper.yaml."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self.place = place
        self.say = say
        self.controller = Controller(place.rest)
        self._durations = [FIRST_GUESS]

    @property
    def patience(self) -> float:
        """Seconds to expect of a migration here, on the safe side."""
        return 1.4 * max(self._durations[-6:])

    def iperf3(self, *, reverse: bool = True) -> Workload:
        ends = ("iperf3-server", "iperf3-client", "192.168.50.10")
        return Iperf3(self.place, *ends, reverse=reverse, host=DEVICE, seconds=BEFORE + self.patience + AFTER)

    def sockperf(self) -> Workload:
        ends = ("sockperf-server", "sockperf-client", "192.168.50.11")
        seconds = BEFORE + self.patience + AFTER
        return Sockperf(self.place, *ends, host=DEVICE, seconds=seconds)

    def send(self, container: str, to: str, **options: Any) -> dict[str, Any] | None:
        """Moves a container if it is not there. Raises RuntimeError when it stays where it was."""
        if self.controller.where(container) == to:
            return None
        record = self.controller.migrate(container, to, **options)
        self._durations.append(record["duration_s"])
        if record["state"] != "succeeded":
            raise RuntimeError(f"{container} could not be brought to {to}: {record['error']}")
        return record

    def move_under(self, load: Workload, **options: Any) -> Run:
        """The server goes from the source to the destination while its client uses it."""
        self.send(load.server, SOURCE)
        one = run(self.controller, load, (SOURCE, DESTINATION), before=BEFORE, **options)
        self._durations += [record["duration_s"] for record in one.migrations]
        return one

    @contextmanager
    def containers(self, *bodies: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        """Containers as POST /v1.0/containers takes and answers them; gone at the end."""
        made: list[dict[str, Any]] = []
        try:
            for body in bodies:
                made.append(self.controller.post("/v1.0/containers", body))
            yield made
        finally:
            for one in made:
                self.controller.call("DELETE", f"/v1.0/containers/{one['name']}")


class Trial(ABC):
    """``needs`` are the hosts that must be there, ``guess`` the seconds of a run until one was made."""

    name: str
    title: str
    setting: Setting
    needs: tuple[str, ...] = (SOURCE, DESTINATION, DEVICE)
    guess = 10.0

    @abstractmethod
    def keys(self, runs: int) -> list[str]:
        """The runs to make when ``runs`` of each kind are asked for, in order."""

    @abstractmethod
    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        """One run, ready for JSON; ``workload``, ``resumed``, ``lost_bytes`` and ``trouble`` must be in it."""


def numbered(kinds: tuple[str, ...], runs: int, most: int | None = None) -> list[str]:
    """``KIND-001`` and so on, the kinds in turn, so that whatever changes with time changes for all alike."""
    count = runs if most is None else min(runs, most)
    return [f"{kind}-{number:03}" for number in range(1, count + 1) for kind in kinds]


def kind_of(key: str) -> str:
    return key.rpartition("-")[0]


def frozen_from(record: dict[str, Any]) -> float:
    """When its checkpoint began, or else the migration: Unix seconds."""
    starts = {step["name"]: step["started_at"] for step in record["steps"]}
    return unix_time(starts.get("checkpoint", record["started_at"]))
