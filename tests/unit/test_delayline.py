"""When the delay line lets a frame go: pure arithmetic, with time and chance as arguments."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mininet_scenarios.inside.delayline import Line, line_of, parse

FRAME = bytes(1000)
arrivals = st.lists(st.floats(min_value=0, max_value=0.01), min_size=1, max_size=50).map(
    lambda gaps: list(itertools.accumulate(gaps))
)


def departures(line: Line, times: list[float]) -> list[float]:
    """When each frame that was not dropped is due."""
    for now in times:
        line.put(FRAME, now)
    return [due for due, _ in line.waiting]


def test_a_frame_comes_out_after_the_delay_and_not_before() -> None:
    line = Line(delay=0.02)
    assert line.next_due is None and line.take(100.0) is None
    line.put(b"one", 1.0)
    line.put(b"two", 1.005)
    assert line.next_due == 1.02
    assert line.take(1.0199) is None
    assert line.take(1.02) == b"one"
    assert line.take(1.02) is None
    assert line.take(2.0) == b"two"


@given(arrivals, st.floats(0, 0.1), st.floats(0, 0.1), st.randoms(use_true_random=False))
def test_order_is_kept_and_jitter_stays_in_its_bounds(times, delay, jitter, randomness) -> None:
    due = departures(Line(delay=delay, jitter=jitter, chance=randomness.random), times)
    assert due == sorted(due) and len(due) == len(times)
    assert all(out >= arrived for out, arrived in zip(due, times, strict=True))
    latest = itertools.accumulate((arrived + delay + jitter for arrived in times), max)
    assert all(out <= bound + 1e-9 for out, bound in zip(due, latest, strict=True))


@given(arrivals, st.floats(min_value=1e4, max_value=1e8))
def test_no_more_than_the_rate_leaves_and_no_more_than_the_queue_waits(times: list[float], rate: float) -> None:
    line = Line(rate=rate, queue=0.05)
    due = departures(line, times)
    assert all(later - earlier >= len(FRAME) / rate - 1e-9 for earlier, later in itertools.pairwise(due))
    assert due[-1] <= times[-1] + 0.05 + len(FRAME) / rate + 1e-9
    assert line.dropped == len(times) - len(due)


def test_an_idle_line_saves_nothing_up() -> None:
    assert departures(Line(rate=1e6), [0.0, 10.0, 10.0]) == pytest.approx([0.001, 10.001, 10.002])


def test_loss_follows_chance() -> None:
    draws = iter([0.1, 0.9, 0.29, 0.3])
    line = Line(loss=0.3, chance=lambda: next(draws))
    assert departures(line, [1.0, 2.0, 3.0, 4.0]) == [2.0, 4.0]
    assert line.dropped == 2


def test_options_are_turned_into_seconds_and_bytes() -> None:
    given = "a b --delay-ms=20 --jitter-ms=2 --loss-percent=5 --rate-mbit=100 --queue-ms=30"
    line = line_of(parse(given.split()))
    assert (line.delay, line.jitter, line.loss, line.rate, line.queue) == (0.02, 0.002, 0.05, 12.5e6, 0.03)
    assert line_of(parse(["a", "b"])) == Line()
