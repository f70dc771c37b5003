"""What is predicted, from nothing and from history."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from coat_ryu.journal import Journal
from coat_ryu.model import Mode
from coat_ryu.prediction import error, predict
from coat_ryu.saga import Migration, StepRecord

MB = 1 << 20


def past(container: str, size: int, mode: Mode = "prepared", rate: float = 125e6, slow: float = 0.0) -> Migration:
    """A migration on a machine where a checkpoint takes 0.2 s and 1 ns a byte, and a restore 0.1 s."""
    times = {"preflight": 0.1, "checkpoint": 0.2 + size * 1e-9 + slow, "transfer": 0.01 + size / rate, "restore": 0.1}
    steps = [StepRecord(name=name, node="a", started_at="", duration_s=took) for name, took in times.items()]
    steps[0].detail["state"] = size + 4 * MB
    return Migration(
        id="m",
        container=container,
        source="a",
        destination="b",
        mode=mode,
        mac="keep",
        state="succeeded",
        started_at="",
        duration_s=sum(times.values()) + 0.5,
        downtime_s=sum(times.values()) - 0.1 - 0.05,
        checkpoint_bytes=size,
        steps=steps,
    )


def test_without_history_the_model_answers_and_says_so() -> None:
    small, large = (predict("web", "prepared", size, []) for size in (MB, 256 * MB))
    assert (small.basis, small.samples) == ("model", 0)
    assert 0.1 < small.downtime_s < 1.0 < large.downtime_s < large.duration_s
    assert predict("web", "sequential", MB, []).downtime_s > small.downtime_s


def test_a_container_s_own_history_is_what_counts() -> None:
    history = [past("web", MB), past("db", 900 * MB), past("web", MB, slow=3.0), past("web", MB)]
    expected = predict("web", "prepared", 5 * MB, history)
    assert (expected.basis, expected.samples, expected.checkpoint_bytes) == ("history", 3, MB)
    assert expected.downtime_s == pytest.approx(past("web", MB).downtime_s, rel=0.01)
    assert expected.duration_s == pytest.approx(past("web", MB).duration_s, rel=0.01)


@pytest.mark.parametrize("size", [MB, 64 * MB, 512 * MB])
def test_others_histories_teach_the_link_s_rate(size: int) -> None:
    """A container that never moved, in a size that never was."""
    history = [past(f"c{number}", number * 32 * MB, rate=40e6) for number in range(1, 8)]
    expected = predict("new", "prepared", size + 4 * MB, history)
    assert expected.downtime_s == pytest.approx(past("new", size, rate=40e6).downtime_s, rel=0.05)


def test_a_container_that_has_grown_is_expected_to_take_longer() -> None:
    history = [past("web", MB), *(past(f"c{number}", number * 32 * MB) for number in range(1, 8))]
    grown = predict("web", "prepared", 204 * MB, history)
    assert grown.downtime_s == pytest.approx(past("web", 200 * MB).downtime_s, rel=0.05)


def test_only_what_went_well_in_the_same_mode_counts() -> None:
    failed = past("web", MB).model_copy(update={"state": "rolled_back"})
    assert predict("web", "prepared", MB, [failed, past("web", MB, "sequential")]).basis == "model"


def test_the_error_is_in_proportion() -> None:
    assert error(0.33, 0.3) == pytest.approx(0.1)
    assert error(0.15, 0.3) == pytest.approx(-0.5)
    assert error(0.3, 0.0) == 0.0


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_history_takes_next_to_no_memory(tmp_path: Path) -> None:
    """It is read at each preflight, and the allocator does not give all of it back."""
    journal = Journal(tmp_path / "journal.db")
    for number in range(100):
        journal.put_migration(past("web", 1 << 20).model_copy(update={"id": f"{number}"}), {})
    predict("web", "prepared", 1 << 20, journal.succeeded("prepared", 2))
    whole = peak(lambda: list(journal.succeeded("prepared", 100)))
    assert peak(lambda: predict("web", "prepared", 1 << 20, journal.succeeded("prepared", 100))) < whole / 4
    journal.close()
