"""What a node says is bounded: a bad one must not stop the controller."""

import itertools
import json
import threading
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coat_ryu import remote as remotes
from coat_ryu.lines import Lines, Odd, check_answer
from coat_ryu.remote import LINE_MAX, Remote
from coat_ryu.ssh import Login

GOOD = {"id": 1, "ok": True, "result": None, "started_at": 1.0, "finished_at": 2}


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_lines_are_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(data)]
    lines = Lines(1000)
    found = [line for start, end in itertools.pairwise(ends) for line in lines.feed(data[start:end])]
    assert found == data.split(b"\n")[:-1]


def test_a_line_has_a_limit_and_one_of_that_length_passes() -> None:
    lines = Lines(10)
    assert list(lines.feed(b"0123456789\nx\n")) == [b"0123456789", b"x"]
    with pytest.raises(Odd, match="over 10 bytes"):
        list(lines.feed(b"01234567890"))
    pieces = Lines(10)
    assert list(pieces.feed(b"012345")) == []
    with pytest.raises(Odd):
        list(pieces.feed(b"67890"))


def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    """Eight megabytes, a thousand bytes at a time: copying what is there for each piece would move 32 GB."""
    lines, began = Lines(LINE_MAX), time.process_time()
    for _ in range(LINE_MAX // 1000):
        assert list(lines.feed(bytes(1000))) == []
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "x",
        {},
        {**GOOD, "ok": 1},
        {**GOOD, "started_at": None},
        {**GOOD, "finished_at": "1"},
        {**GOOD, "finished_at": float("nan")},
        {key: value for key, value in GOOD.items() if key != "result"},
        {**GOOD, "ok": False},
        {**GOOD, "ok": False, "error": {"cause": "x", "message": "x", "command": "x"}},
        {**GOOD, "ok": False, "error": {"cause": "x", "message": 1, "command": "x", "stderr": ""}},
    ],
)
def test_what_is_no_answer_is_told(answer: Any) -> None:
    with pytest.raises(Odd):
        check_answer(answer)


def test_an_answer_is_one() -> None:
    error = {"cause": "x", "message": "x", "command": "", "stderr": ""}
    assert check_answer(GOOD) == GOOD
    assert check_answer({**GOOD, "id": None, "ok": False, "error": error})["error"] == error


class Channel:
    """A node that says this, over and over, until it is hung up on."""

    def __init__(self, *said: bytes, times: int = 1) -> None:
        self.said, self.left, self.closed = list(said), times, False

    def recv(self, size: int) -> bytes:
        if self.closed or not self.left:
            return b""
        data = self.said.pop(0)
        if not self.said:
            self.left -= 1
            self.said.append(data)
        return data[:size]

    def close(self) -> None:
        self.closed = True


def remote() -> Remote:
    return Remote("edge", Login("h", 22, "root", None, "/hosts"))


@pytest.mark.parametrize(
    ("channel", "told"),
    [
        (Channel(b"x" * 65536, times=1 << 20), "over"),
        (Channel(b"[" * 50_000 + b"\n"), "no answer"),
        (Channel(b"5\n"), "an answer is an object"),
        (Channel(b'{"id": {}}\n'), "with ok"),
        (Channel(b"not JSON\n"), "no answer of our hook"),
        (Channel(b"\xff\n"), "no answer"),
    ],
)
def test_a_node_that_says_nonsense_is_hung_up_on_with_the_reason(channel: Channel, told: str) -> None:
    one = remote()
    tracemalloc.start()
    reader = threading.Thread(target=one._read, args=(channel,), daemon=True)
    reader.start()
    reader.join(30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not reader.is_alive() and channel.closed
    assert told in one._stderr and len(one._stderr) <= remotes.STDERR_KEPT
    assert peak < 4 * LINE_MAX


def test_an_answer_with_an_odd_id_is_nobodys() -> None:
    one = remote()
    line = json.dumps({**GOOD, "id": [1]}).encode() + b"\n"
    one._read(Channel(line))  # type: ignore[arg-type]
    assert one._stderr == ""


def test_a_first_line_that_does_not_end_is_given_up() -> None:
    with pytest.raises(ValueError, match=f"over {remotes.FIRST_LINE_MAX} bytes"):
        remotes._read_line(Channel(b"x", times=1 << 30))  # type: ignore[arg-type]
