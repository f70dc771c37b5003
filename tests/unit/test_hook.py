"""The hook's protocol in memory: lines in, lines out; arguments, chains, deadlines, fences, and what CRIU leaves."""

import io
import json
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from coat_ryu.node import criu, verbs
from coat_ryu.node.failure import STDERR_LIMIT, Failure
from coat_ryu.node.fence import fence
from coat_ryu.node.hook import Answers, serve
from coat_ryu.node.process import deadline, remaining, run
from coat_ryu.node.verbs import Ifname, Mac, Name, checked

PATIENCE = 20


def ask(*lines: bytes | dict[str, Any]) -> list[dict[str, Any]]:
    """The hook's answers, in the order of their ids."""
    out = io.BytesIO()
    requests = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
    serve(requests, Answers(out))
    return sorted((json.loads(line) for line in out.getvalue().splitlines()), key=lambda answer: answer["id"] or 0)


# ---- lines


def test_an_answer_carries_id_result_and_times() -> None:
    before = time.time()
    (answer,) = ask({"id": 7, "verb": "clock", "args": {}})
    assert set(answer) == {"id", "ok", "result", "started_at", "finished_at"}
    assert answer["id"] == 7 and answer["ok"] is True
    assert before <= answer["started_at"] <= answer["result"] <= answer["finished_at"] <= time.time()


@pytest.mark.parametrize(
    "line", [b"\n", b"{\n", b"\xff\xfe\n", b"[]\n", b"7\n", b'{"id": 1}\n', b'{"verb": 5, "id": 1}\n']
)
def test_a_line_that_is_no_request_is_answered(line: bytes) -> None:
    bad, good = ask(line, {"id": 2, "verb": "clock"})
    assert bad["ok"] is False and bad["error"]["cause"] in ("bad_args", "unknown_verb")
    assert set(bad["error"]) == {"cause", "message", "command", "stderr"}
    assert good["ok"] is True


def test_requests_are_served_side_by_side() -> None:
    """A request that waits for something another request does would wait for ever, were they served in turn."""
    meeting = threading.Barrier(20, timeout=PATIENCE)
    verbs.VERBS["meet"] = lambda: meeting.wait() and None
    try:
        answers = ask(*({"id": n, "verb": "meet", "args": {}} for n in range(20)))
    finally:
        del verbs.VERBS["meet"]
    assert [answer["ok"] for answer in answers] == [True] * 20


def test_a_fault_of_ours_is_told_with_its_traceback() -> None:
    verbs.VERBS["fault"] = lambda: 1 / 0
    try:
        (answer,) = ask({"id": 1, "verb": "fault", "args": {}})
    finally:
        del verbs.VERBS["fault"]
    assert answer["error"]["cause"] == "internal"
    assert "ZeroDivisionError" in answer["error"]["message"] and "Traceback" in answer["error"]["stderr"]


def test_a_chain_answers_each_step() -> None:
    (answer,) = ask({"id": 1, "verb": "chain", "args": {"steps": [{"verb": "clock", "args": {}}, {"verb": "clock"}]}})
    first, second = answer["result"]["steps"]
    assert set(first) == {"verb", "result", "started_at", "finished_at"}
    assert first["started_at"] <= first["finished_at"] <= second["started_at"]


def test_a_chain_stops_at_the_first_failure_and_names_it() -> None:
    done: list[str] = []
    verbs.VERBS["note"] = lambda: done.append("note")
    steps = [{"verb": "note"}, {"verb": "chain", "args": {"steps": 1}}, {"verb": "note"}]
    try:
        (answer,) = ask({"id": 1, "verb": "chain", "args": {"steps": steps}})
    finally:
        del verbs.VERBS["note"]
    assert answer["error"]["message"].startswith("step 2 (chain): steps: list is wanted")
    assert done == ["note"]


# ---- arguments


def sample(
    *,
    name: Name,
    port: Ifname = "p",
    mac: Mac | None = None,
    count: int = 0,
    share: float = 0.5,
    on: bool = False,
    names: list[Name] = [],  # noqa: B006
    table: dict[Ifname, str] = {},  # noqa: B006
    kind: Literal["a", "b"] = "a",
) -> None:
    """A verb with every kind of argument."""


@pytest.mark.parametrize(
    "args",
    [
        {"name": "a"},
        {"name": "A.b-c_9", "port": "c-x", "mac": "02:00:00:00:00:01", "count": 3, "share": 1, "on": True},
        {"name": "a", "mac": None, "names": ["b", "c"], "table": {"t-x": ""}, "kind": "b"},
    ],
)
def test_good_arguments_pass(args: dict[str, Any]) -> None:
    assert checked(sample, args) == args


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({}, "name: missing"),
        ({"name": None}, "name: str is wanted, not NoneType"),
        ({"name": ""}, "name: '' is not"),
        ({"name": "a\n"}, "name: 'a\\n' is not"),
        ({"name": "-a"}, "name: "),
        ({"name": "a" * 64}, "name: "),
        ({"name": "a", "x": 1}, "x: no such argument"),
        ({"name": "a", "port": "a" * 16}, "port: "),
        ({"name": "a", "mac": "03:00:00:00:00:01"}, "mac: "),
        ({"name": "a", "count": True}, "count: int is wanted, not bool"),
        ({"name": "a", "count": 1.5}, "count: int is wanted"),
        ({"name": "a", "share": "1"}, "share: float is wanted"),
        ({"name": "a", "on": 1}, "on: bool is wanted"),
        ({"name": "a", "names": "b"}, "names: list is wanted"),
        ({"name": "a", "names": ["b", "/"]}, "names[1]: "),
        ({"name": "a", "table": []}, "table: dict is wanted"),
        ({"name": "a", "table": {"/": ""}}, "table: key: "),
        ({"name": "a", "table": {"x": 1}}, "table.x: str is wanted"),
        ({"name": "a", "kind": "c"}, "kind: allowed are a, b"),
        ({"name": "a", "kind": ["a"]}, "kind: allowed are a, b"),
    ],
)
def test_a_bad_argument_is_named(args: dict[str, Any], named: str) -> None:
    with pytest.raises(Failure) as raised:
        checked(sample, args)
    assert raised.value.cause == "bad_args" and str(raised.value).startswith(named)


# ---- commands and time


def test_a_command_gives_its_output() -> None:
    assert run(["printf", "%s", "a b; c"]) == "a b; c"


def test_a_failed_command_tells_argv_and_the_end_of_its_errors() -> None:
    with pytest.raises(Failure) as raised:
        run(["sh", "-c", "yes | head -c 9998 >&2; echo reason >&2; exit 3"])
    failure = raised.value
    assert failure.cause == "command_failed" and str(failure) == "sh: reason"
    assert failure.command.startswith("sh -c ") and failure.stderr.endswith("reason\n")
    assert len(failure.stderr) <= STDERR_LIMIT


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(Failure, match="coat-no-such-command: No such file"):
        run(["coat-no-such-command"])


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(Failure, match="did not end") as raised:
        run(["sh", "-c", f"(sleep 2; touch {mark}) & wait"], timeout=0.2)
    assert raised.value.cause == "timeout"
    time.sleep(2.5)
    assert not mark.exists()


def test_the_requests_time_bounds_its_commands() -> None:
    with deadline(0.2), pytest.raises(Failure, match="did not end"):
        run(["sleep", "60"])
    with deadline(0.0), pytest.raises(Failure, match="used up"):
        run(["true"])
    with deadline(5), deadline(100), deadline(None):
        assert remaining(60) <= 5
    assert remaining(60) == 60
    (answer,) = ask({"id": 1, "verb": "clock", "timeout": 0, "args": {"fence": {"container": 1, "epoch": 1}}})
    assert answer["error"]["cause"] == "bad_args"


# ---- fences


def test_an_older_epoch_is_refused_for_its_container_only(tmp_path: Path) -> None:
    with fence("restore", "web", 5, tmp_path):
        pass
    for epoch in (5, 6):
        with fence("restore", "web", epoch, tmp_path):
            pass
    for verb in ("restore", "chain", "receive_wait"):
        with (
            pytest.raises(Failure, match="epoch 5 of web is over, 6 was heard") as raised,
            fence(verb, "web", 5, tmp_path),
        ):
            pytest.fail("refused work was begun")
        assert raised.value.cause == "fenced"
    with fence("restore", "other", 1, tmp_path):
        pass


def test_a_later_epoch_waits_for_work_under_way_and_lets_nothing_old_begin(tmp_path: Path) -> None:
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def old() -> None:
        with fence("restore", "web", 1, tmp_path):
            begun.set()
            assert go_on.wait(PATIENCE)
            order.append("old")

    def new() -> None:
        with fence("container_inspect", "web", 2, tmp_path):
            order.append("new")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(old)
        assert begun.wait(PATIENCE)
        second = pool.submit(new)
        until = time.monotonic() + PATIENCE
        while int((tmp_path / "web").read_text() or 0) < 2:
            assert time.monotonic() < until
        with pytest.raises(Failure, match="is over"), fence("restore", "web", 1, tmp_path):
            pytest.fail("refused work was begun")
        assert order == []
        go_on.set()
        first.result()
        second.result()
    assert order == ["old", "new"]


def test_work_of_one_epoch_runs_side_by_side(tmp_path: Path) -> None:
    with fence("checkpoint", "web", 1, tmp_path), fence("send_state", "web", 1, tmp_path):
        pass


def test_nobody_waits_for_those_who_only_wait(tmp_path: Path) -> None:
    with (
        fence("receive_wait", "web", 1, tmp_path),
        fence("chain", "web", 1, tmp_path),
        fence("restore", "web", 2, tmp_path),
    ):
        pass


def test_a_fence_is_checked_within_a_chain(tmp_path: Path) -> None:
    (answer,) = ask({"id": 1, "verb": "chain", "args": {"steps": [{"verb": "clock", "args": {"fence": {"epoch": 1}}}]}})
    assert answer["error"]["message"] == "step 1 (clock): container: missing"


# ---- what CRIU writes


def field(number: int, value: int | bytes) -> bytes:
    def varint(value: int) -> bytes:
        out = b""
        while value > 0x7F:
            out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
        return out + bytes([value])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def stats(entry: bytes) -> bytes:
    return struct.pack("<III", 0x55105940, 0x57093306, len(entry)) + entry


def test_statistics_are_read(tmp_path: Path) -> None:
    file = tmp_path / "stats-dump"
    file.write_bytes(stats(field(1, field(1, 100_924) + field(2, 63_184) + field(7, 27) + field(99, 5))))
    assert criu.read_stats(file) == {"freezing_time": 100_924, "frozen_time": 63_184, "pages_written": 27}
    file.write_bytes(stats(field(2, field(4, 1 << 40) + field(5, 0))))
    assert criu.read_stats(file) == {"restore_time": 1 << 40, "pages_restored": 0}
    file.write_bytes(stats(b""))
    assert criu.read_stats(file) == {}


@pytest.mark.parametrize("content", [b"", b"x" * 40, stats(field(1, b"\x80")), stats(b"\x0b\x00")])
def test_what_is_no_statistics_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "stats-dump"
    file.write_bytes(content)
    with pytest.raises(ValueError):
        criu.read_stats(file)


def test_the_hook_needs_nothing_of_the_controllers() -> None:
    """As on a node, where none of it is: only the standard library and pyroute2."""
    code = (
        "import sys; import coat_ryu.node.hook; "
        "print([m for m in ('paramiko', 'pydantic', 'eventlet', 'ryu', 'networkx') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    assert run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"]) == "[]\n"
