"""What COAT's additions are worth: the same migration without the hold, with a new MAC, without the MSS repair."""

from typing import Any

from mininet_scenarios.paper.latency import round_trips
from mininet_scenarios.paper.throughput import rates
from mininet_scenarios.paper.trial import LATENCY, THROUGHPUT, Scene, Setting, Trial, kind_of, numbered

MOST = 5
NO_HOLD = (("hold", "false"),)
NO_REPAIR = (("repair_mss", "false"),)


class Variant(Trial):
    """Migrations in mode ``prepared``. ``loads``: sockperf, iperf3 (the server sends) or iperf3-forward."""

    def __init__(self, name: str, title: str, setting: Setting, loads: tuple[str, ...], **options: Any) -> None:
        self.name = name
        self.title = title
        self.setting = setting
        self._loads = loads
        self._options = options

    def keys(self, runs: int) -> list[str]:
        return numbered(self._loads, runs, most=MOST)

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        kind = kind_of(key)
        load = scene.sockperf() if kind == "sockperf" else scene.iperf3(reverse=kind == "iperf3")
        one = scene.move_under(load, **self._options)
        silences = sorted((gap.seconds for gap in one.outcome.silences), reverse=True)
        more = round_trips(one) if kind == "sockperf" else rates(one)
        return {**one.as_json(), "workload": kind, "variant": self.name, "silences_s": silences[:5], **more}


def variants() -> list[Trial]:
    slow, narrow = LATENCY, THROUGHPUT
    slow_drop = Setting("latency-no-hold", slow.topology, NO_HOLD)
    narrow_drop = Setting("throughput-no-hold", narrow.topology, NO_HOLD)
    narrow_crawl = Setting("throughput-no-repair", narrow.topology, NO_REPAIR)
    return [
        Variant("whole", "With all of it, where the client sends", narrow, ("iperf3-forward",)),
        Variant("new-mac-latency", "A new MAC (`mac: renew`)", slow, ("sockperf",), mac="renew"),
        Variant("new-mac-throughput", "A new MAC (`mac: renew`)", narrow, ("iperf3",), mac="renew"),
        Variant("no-hold-latency", "Without the hold", slow_drop, ("sockperf",)),
        Variant("no-hold-throughput", "Without the hold", narrow_drop, ("iperf3", "iperf3-forward")),
        Variant("no-repair", "Without the MSS repair", narrow_crawl, ("iperf3",)),
    ]
