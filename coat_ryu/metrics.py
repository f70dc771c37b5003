"""Prometheus metrics of the controller."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from coat_ryu.saga import Migration

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)

_LAGS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)

_SWITCH = ("connected", "flows_installed", "flows_wanted", "denied_packets")


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._migrations = Counter(
            "coat_migrations", "Migrations that ended", ["state", "mode"], registry=self.registry
        )
        self._downtime = Histogram(
            "coat_downtime_seconds", "Freeze to first instruction", ["mode"], buckets=_SECONDS, registry=self.registry
        )
        self._step = Histogram(
            "coat_step_seconds", "Duration of a step", ["step", "mode"], buckets=_SECONDS, registry=self.registry
        )
        self._overhead = Histogram(
            "coat_remote_overhead_seconds",
            "Remote control a migration",
            ["mode"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._packets = Counter("coat_hold_packets", "Packets at the hold", ["what"], registry=self.registry)

        self._prediction = Histogram(
            "coat_prediction_error_ratio",
            "How far off a predicted downtime was, in proportion to the real one",
            buckets=_RATIOS,
            registry=self.registry,
        )
        self._node_up = Gauge("coat_node_up", "Whether a node can be worked with", ["node"], registry=self.registry)
        self._switch_up = Gauge(
            "coat_switch_connected", "Whether a node's switch is connected", ["node"], registry=self.registry
        )
        self._refused = Counter(
            "coat_openflow_refused", "OpenFlow connections not let in", ["node", "reason"], registry=self.registry
        )
        self._flows = Gauge("coat_flows", "Flows of ours in a switch", ["node"], registry=self.registry)
        self._wanted = Gauge("coat_flows_wanted", "Flows that a switch should have", ["node"], registry=self.registry)
        self._denied = Gauge(
            "coat_denied_packets", "Packets dropped for a false source address", ["node"], registry=self.registry
        )
        self._topology_failed = Gauge(
            "coat_topology_reload_failed",
            "1: the last topology was refused, an older one is in force",
            registry=self.registry,
        )
        self._readers = Gauge("coat_event_readers", "Who follows the events now", registry=self.registry)

        self._lag = Histogram(
            "coat_event_loop_lag_seconds", "How late the event loop was", buckets=_LAGS, registry=self.registry
        )
        self._largest_lag = Gauge(
            "coat_event_loop_lag_max_seconds", "The largest lag since the start", registry=self.registry
        )
        self._own_lag = Gauge(
            "coat_event_loop_own_lag_max_seconds",
            "The largest lag since the start, less what the machine had no processor for us",
            registry=self.registry,
        )
        self._most = self._most_own = 0.0

    def lag(self, seconds: float, starved: float) -> None:
        """Adds a look at the event loop: how much later than asked it came back from a sleep, and how much of that the
        process waited for a processor.
        """
        self._lag.observe(seconds)
        self._most = max(self._most, seconds)
        self._most_own = max(self._most_own, seconds - starved)
        self._largest_lag.set(self._most)
        self._own_lag.set(self._most_own)

    def look(self, nodes: Mapping[str, tuple[bool, Mapping[str, Any]]], topology_failed: bool, readers: int) -> None:
        """Takes down how things are: of each node whether it is ready, and its switch's status."""
        gauges = (self._node_up, self._switch_up, self._flows, self._wanted, self._denied)
        for gauge in gauges:
            gauge.clear()  # a node that is no longer there has no figure
        for name, (ready, switch) in nodes.items():
            figures = (ready, *(switch[key] for key in _SWITCH))
            for gauge, value in zip(gauges, figures, strict=True):
                gauge.labels(name).set(value)
        self._topology_failed.set(topology_failed)
        self._readers.set(readers)

    def count(self, migration: Migration) -> None:
        """Adds a migration that has ended."""
        self._migrations.labels(migration.state, migration.mode).inc()
        for step in migration.steps:
            if step.duration_s is not None:
                self._step.labels(step.name, migration.mode).observe(step.duration_s)
        if migration.downtime_s is not None:
            self._downtime.labels(migration.mode).observe(migration.downtime_s)
        if migration.prediction_error is not None:
            self._prediction.observe(abs(migration.prediction_error))
        self._overhead.labels(migration.mode).observe(migration.remote_overhead_s)
        self._packets.labels("held").inc(migration.held_packets)
        self._packets.labels("replayed").inc(migration.replayed_packets)
        self._packets.labels("dropped").inc(migration.dropped_packets)

    def refused(self, node: str, reason: str) -> None:
        """Adds an OpenFlow connection that was not let in."""
        self._refused.labels(node, reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
