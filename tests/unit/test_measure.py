"""What samples say about a disruption."""

import math

import pytest

from mininet_scenarios.measure import (
    Gap,
    begun_before,
    clock_shift,
    long_trips,
    longest_gap,
    rate_between,
    rtt_disruption,
    summary,
)
from mininet_scenarios.meter import interface_bytes, tcp_segments_in


def test_the_longest_gap_is_found_with_its_place() -> None:
    gap = longest_gap([0.0, 0.1, 0.2, 0.9, 1.0])
    assert gap.at == 0.2
    assert math.isclose(gap.seconds, 0.7)
    with pytest.raises(ValueError):
        longest_gap([1.0])


def test_a_disruption_is_the_worst_round_trip_less_the_median_of_fifty_before_it() -> None:
    slow_start = [(i * 1.0, i * 1.0 + 0.5) for i in range(100)]
    steady = [(100.0 + i, 100.0 + i + 0.01) for i in range(60)]
    gap = rtt_disruption([*slow_start, *steady, (160.0, 161.01)])
    assert gap.at == 160.0
    assert math.isclose(gap.seconds, 1.0)
    first_is_worst = [(0.0, 1.0), (1.0, 1.25), (2.0, 2.25)]
    gap = rtt_disruption(first_is_worst)
    assert gap.at == 0.0
    assert math.isclose(gap.seconds, 0.75)


def test_a_rate_is_taken_between_the_outermost_samples_inside() -> None:
    samples = [(0.0, 0), (1.0, 1000), (2.0, 3000), (3.0, 9000)]
    assert rate_between(samples, 1.0, 2.5) == 16000.0
    assert math.isnan(rate_between(samples, 2.5, 2.9))


def test_a_summary_keeps_every_run_and_says_how_sure_it_is() -> None:
    of_three = summary([1.0, 2.0, 6.0])
    assert (of_three["mean"], of_three["median"], of_three["min"], of_three["max"]) == (3.0, 2.0, 1.0, 6.0)
    # t(0.95, 2) = 2.920; s = sqrt(7); n = 3
    assert of_three["ci90"] == pytest.approx(2.920 * math.sqrt(7) / math.sqrt(3))
    assert summary([])["mean"] is None
    assert summary([1.0])["ci90"] is None


def test_the_kernel_s_counters_are_read_by_name() -> None:
    snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm RtoMin InSegs OutSegs\nTcp: 1 200 77 5\n"
    assert tcp_segments_in(snmp) == 77
    dev = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10\n  eth0: 100 0 0 0 0 0 0 0 200 0\n"
    assert interface_bytes(dev) == (100, 200)


def test_clocks_are_matched_by_the_silences_that_both_saw() -> None:
    """Also when the two longest are about as long, and where one side has noise of its own."""
    theirs = [Gap(1.0, 0.5), Gap(4.0, 1.51), Gap(9.0, 1.52)]
    ours = [Gap(101.0, 0.501), Gap(102.5, 0.03), Gap(104.001, 1.522), Gap(109.002, 1.512)]
    assert clock_shift(theirs, ours) == pytest.approx(100, abs=0.01)


def test_every_long_round_trip_counts_without_what_is_normal() -> None:
    trips = [(float(i), i + 0.001) for i in range(60)]
    trips[10], trips[40] = (10.0, 10.301), (40.0, 40.201)
    found = long_trips(trips, 0.02)
    assert [gap.at for gap in found] == [10.0, 40.0]
    assert [gap.seconds for gap in found] == pytest.approx([0.3, 0.2])


def test_what_comes_after_a_client_s_time_is_no_silence_of_its_server_s() -> None:
    arrivals = [0.0, 0.1, 0.5, 0.6, 0.7, 1.7]
    assert longest_gap(begun_before(arrivals, 0.65)).seconds == pytest.approx(0.4)
    assert longest_gap(begun_before(arrivals, 0.75)).seconds == pytest.approx(1.0)  # it began in time
    assert begun_before(arrivals, math.inf) == arrivals


def test_what_is_not_known_is_not_averaged() -> None:
    assert summary([1.0, math.nan, None, 3.0])["mean"] == 2.0
    assert summary([math.nan])["mean"] is None
