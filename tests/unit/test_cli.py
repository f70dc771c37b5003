"""`coat` against a controller over HTTP: what it prints, what it says when it is refused, and its exit status."""

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from click.testing import CliRunner, Result
from webob import Request, Response

from coat_ryu.cli import COMMANDS, client, main
from coat_ryu.cli.client import Exit
from tests.unit.fakes import World
from tests.unit.served import controller, scripted
from tests.unit.served import served as serve

ROOT = Path(__file__).parents[2]
PLAN = {
    "container": "web",
    "source": "a",
    "destination": "b",
    "mode": "prepared",
    "possible": True,
    "refusals": [],
    "expected": {"downtime_s": 0.2, "duration_s": 1.0, "checkpoint_bytes": 4096, "basis": "history", "samples": 7},
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, World]]:
    with controller(tmp_path) as made:
        yield made


def coat(url: str, *arguments: str, **environment: str) -> Result:
    result = CliRunner().invoke(main, arguments, env={"COAT_URL": url, "COAT_TOKEN": None, **environment})
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def told(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_lists_are_tables_for_people_and_json_for_scripts(served: tuple[str, World]) -> None:
    url, _ = served
    assert [node["name"] for node in told(coat(url, "nodes", "--json"))] == ["a", "b"]
    assert [line.split()[:2] for line in coat(url, "nodes").stdout.splitlines()[1:]] == [
        ["a", "10.0.0.1"],
        ["b", "10.0.0.2"],
    ]
    (web,) = told(coat(url, "containers", "--json"))
    assert (web["name"], web["node"], web["state"]) == ("web", "a", "running")
    assert coat(url, "containers").stdout.splitlines()[1].split()[:4] == ["web", "a", "running", "192.168.50.7"]


def test_a_migration_is_watched_step_by_step(served: tuple[str, World]) -> None:
    url, world = served
    result = coat(url, "migrate", "web", "b", "--watch", "--mode", "sequential")
    assert result.exit_code == 0, result.output
    steps = [line.split()[0] for line in result.stdout.splitlines()[:-1]]
    paper = ["checkpoint", "clear_namespace", "transfer", "create_namespace", "flow_update", "restore"]
    assert [step for step in steps if step in paper] == paper
    assert result.stdout.splitlines()[-1].startswith("succeeded in ")
    assert "frozen for 500.0 ms" in result.stdout
    assert world.running("web") == ["b"]
    (record,) = told(coat(url, "migrations", "--json"))
    assert record["mode"] == "sequential"
    one = coat(url, "migrations", record["id"]).stdout
    assert all(step in one for step in paper) and "succeeded" in one
    assert told(coat(url, "migrations", record["id"], "--json")) == record


def test_a_migration_that_goes_back_is_a_failure_with_its_reason(served: tuple[str, World]) -> None:
    url, world = served

    def broken(number: int, node: str, verb: str) -> None:
        if verb == "receive_wait":
            raise world.nodes[node].fail("the disk is full")

    world.before = broken
    result = coat(url, "migrate", "web", "b", "--watch")
    assert (result.exit_code, world.running("web")) == (Exit.FAILED, ["a"])
    assert "rolled_back in" in result.stdout and "undo_" in result.stdout
    assert "the disk is full" in result.stderr and len(result.stderr.splitlines()) == 1
    result = coat(url, "migrate", "web", "b", "--watch", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (Exit.FAILED, "rolled_back")
    assert "the disk is full" in json.loads(result.stderr)["message"]


def test_without_watch_the_id_comes_at_once_and_can_be_aborted(served: tuple[str, World]) -> None:
    url, world = served
    asked, go_on = threading.Event(), threading.Event()

    def stalled(number: int, node: str, verb: str) -> None:
        if verb == "checkpoint":
            asked.set()
            go_on.wait(10)

    world.before = stalled
    try:
        identifier = coat(url, "migrate", "web", "b", "--mode", "sequential").stdout.strip()
        assert asked.wait(10)
        assert told(coat(url, "migrations", identifier, "--json"))["state"] == "running"
        assert coat(url, "abort", identifier).exit_code == 0
    finally:
        go_on.set()
    result = coat(url, "migrate", "web", "b", "--watch")
    while result.exit_code == Exit.REFUSED and "migrating already" in result.stderr:
        result = coat(url, "migrate", "web", "b", "--watch")
    assert (result.exit_code, world.running("web")) == (0, ["b"])
    assert told(coat(url, "migrations", identifier, "--json"))["error"]["cause"] == "aborted"


def test_who_stops_watching_is_told_that_the_migration_goes_on(served: tuple[str, World]) -> None:
    url, world = served
    go_on = threading.Event()

    def stalled(number: int, node: str, verb: str) -> None:
        if verb == "checkpoint_send":
            go_on.wait(20)

    world.before = stalled
    command = [sys.executable, "-c", "from coat_ryu.cli import main; main()", "--url", url]
    with subprocess.Popen(
        [*command, "migrate", "web", "b", "--watch"], stdout=PIPE, stderr=PIPE, text=True
    ) as watching:
        assert watching.stdout and watching.stdout.readline().startswith("preflight ")
        watching.send_signal(signal.SIGINT)
        _, complaint = watching.communicate(timeout=20)
    go_on.set()
    (record,) = told(coat(url, "migrations", "--json"))
    assert watching.returncode == Exit.INTERRUPTED
    assert complaint == f"coat: no longer watched, and going on; `coat abort {record['id']}` takes it back\n"
    while told(coat(url, "migrations", record["id"], "--json"))["state"] == "running":
        pass
    assert world.running("web") == ["b"]


def test_a_watched_migration_waits_for_a_controller_that_is_away() -> None:
    record: dict[str, Any] = {
        "id": "1f",
        "state": "succeeded",
        "steps": [],
        "error": None,
        "duration_s": 1.0,
        "downtime_s": None,
    }
    away = iter([502, 502])

    def answer(request: Request) -> Response:
        if request.method == "GET" and (status := next(away, None)):
            return Response("Bad Gateway", status=status, content_type="text/plain")
        return Response(json.dumps(record), content_type="application/json", charset="utf-8")

    with serve(answer) as url:
        result = coat(url, "migrate", "web", "b", "--watch")
    assert (result.exit_code, result.stdout, next(away, None)) == (0, "succeeded in 1000.0 ms\n", None)
    with serve(lambda request: Response("Bad Gateway", status=502, content_type="text/plain")) as url:
        result = coat(url, "nodes")
    assert (result.exit_code, "no controller answers behind" in result.stderr) == (Exit.NO_CONTROLLER, True)


def test_a_container_is_run_and_removed(served: tuple[str, World]) -> None:
    url, world = served
    result = coat(url, "run", "--ip", "192.168.50.9", "-e", "A=b=c", "shop", "b", "img", "serve", "-f", "--ip", "0")
    assert result.stdout == "shop runs on b with 192.168.50.9\n"
    assert world.running("shop") == ["b"]
    spec = world.nodes["b"].containers["shop"]["spec"]
    assert (spec["command"], spec["env"]) == (["serve", "-f", "--ip", "0"], {"A": "b=c"})
    assert told(coat(url, "remove", "shop", "--json")) == {"name": "shop", "removed": True}
    assert world.running("shop") == []


def test_a_container_is_run_with_limits(served: tuple[str, World]) -> None:
    url, world = served
    words = (
        "--cap-drop net_raw --cap-drop ALL --security-opt no-new-privileges --mem-limit 64m --cpus 0.5 --pids-limit 9"
    )
    assert coat(url, "run", *words.split(), "shop", "b", "img").exit_code == 0
    spec = world.nodes["b"].containers["shop"]["spec"]
    assert (spec["cap_drop"], spec["security_opt"]) == (["CAP_NET_RAW", "ALL"], ["no-new-privileges"])
    assert (spec["mem_limit"], spec["cpus"], spec["pids_limit"]) == (64 << 20, 0.5, 9)
    refused = coat(url, "run", "--mem-limit", "much", "other", "b", "img")
    assert refused.exit_code == Exit.REFUSED and "mem_limit" in refused.stderr


def test_residue_is_shown_and_removed(served: tuple[str, World]) -> None:
    url, world = served
    world.nodes["b"].taps.add("h-old")
    assert "h-old" in coat(url, "cleanup").stdout
    assert world.nodes["b"].taps == {"h-old"}
    (found,) = told(coat(url, "cleanup", "--remove", "--json"))["found"]
    assert (found["name"], found["removed"], world.nodes["b"].taps) == ("h-old", True, set())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["migrate", "nobody", "b"], Exit.NOT_FOUND, "no container 'nobody'"),
        (["migrate", "web", "a"], Exit.REFUSED, "on a already"),
        (["migrations", "0123"], Exit.NOT_FOUND, "0123"),
        (["remove", "no body"], Exit.NOT_FOUND, "no body"),
        (["run", "x y", "a", "img"], Exit.REFUSED, "name"),
        (["run", "x", "a", "nothing"], Exit.BROKEN, "nothing"),
        (["run", "-e", "A", "x", "a", "img"], 2, "KEY=VALUE"),
        (["migrate", "web"], 2, "Missing argument"),
        (["--url", "ftp://x", "nodes"], 2, "http"),
        (["check", str(ROOT / "README.md")], Exit.FAILED, "README.md"),
        (["token", "two words", "read"], 2, "letters"),
        (["token", "me", "king"], 2, "king"),
    ],
)
def test_a_refusal_is_one_sentence_and_an_exit_status(
    served: tuple[str, World], arguments: list[str], code: int, said: str
) -> None:
    result = coat(served[0], *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    if code != 2:
        assert len(result.stderr.splitlines()) == 1


def test_no_controller_and_no_coat_are_told_apart_from_a_refusal() -> None:
    nobody = coat("http://127.0.0.1:1", "nodes")
    assert nobody.exit_code == Exit.NO_CONTROLLER
    assert nobody.stderr.startswith("coat: no controller answers at http://127.0.0.1:1: ")
    with scripted({"GET /v1.0/nodes": (200, "<html>")}) as url:
        stranger = coat(url, "nodes")
    assert (stranger.exit_code, "is no coat controller" in stranger.stderr) == (Exit.NO_CONTROLLER, True)


def test_a_token_goes_along_and_its_absence_is_explained() -> None:
    asked: list[Request] = []
    refused = {"cause": "no_token", "message": "a token is wanted", "response": 401}
    with scripted({"GET /v1.0/nodes": (401, refused), "GET /v1.0/containers": (200, [])}, asked) as url:
        result = coat(url, "nodes")
        assert (result.exit_code, result.stderr) == (
            Exit.DENIED,
            "coat: a token is wanted; give a token with COAT_TOKEN or --token\n",
        )
        assert coat(url, "containers", COAT_TOKEN="secret").exit_code == 0
        assert coat(url, "nodes", "--json", COAT_TOKEN="wrong").stderr == json.dumps(refused) + "\n"
    assert [request.headers.get("Authorization") for request in asked] == [None, "Bearer secret", "Bearer wrong"]


def test_a_plan_is_shown_and_an_impossible_one_fails() -> None:
    asked: list[Request] = []
    with scripted({"POST /v1.0/plan": (200, PLAN)}, asked) as url:
        result = coat(url, "plan", "web", "b", "--mac", "renew")
        assert "web: a -> b, prepared" in result.stdout and "200.0 ms" in result.stdout and "history" in result.stdout
        assert told(coat(url, "plan", "web", "b", "--json")) == PLAN
    assert json.loads(asked[0].body) == {"container": "web", "to": "b", "mac": "renew"}
    refusals = [{"cause": "old_criu", "message": "node b has criu 3.17"}]
    with scripted({"POST /v1.0/plan": (200, PLAN | {"possible": False, "refusals": refusals})}) as url:
        result = coat(url, "plan", "web", "b")
    assert (result.exit_code, "node b has criu 3.17" in result.stderr) == (Exit.FAILED, True)


def test_what_a_node_or_a_container_says_moves_no_cursor() -> None:
    """At a terminal an escape sequence writes elsewhere, or into the clipboard."""
    evil = {"cause": "traced", "message": "\x1b]52;c;evil\x07 (pid 5)\rgrün"}
    with scripted(
        {"POST /v1.0/plan": (200, PLAN | {"possible": False, "refusals": [evil], "warnings": [evil]})}
    ) as url:
        result = coat(url, "plan", "web", "b")
    assert "\\x1b]52;c;evil\\x07 (pid 5)" in result.output and "grün" in result.output
    assert not {"\x1b", "\x07", "\r"} & set(result.output)


def test_warnings_of_a_plan_are_shown() -> None:
    warnings = [{"cause": "log_left_behind", "message": "7 bytes stay behind"}]
    with scripted({"POST /v1.0/plan": (200, PLAN | {"warnings": warnings})}) as url:
        result = coat(url, "plan", "web", "b")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "warning: 7 bytes stay behind (log_left_behind)")


@pytest.mark.parametrize("arguments", [["plan", "web", "b"], ["events"]])
def test_a_controller_without_a_call_is_said_to_be_older(arguments: list[str]) -> None:
    with scripted({}) as url:
        result = coat(url, *arguments)
    assert result.exit_code == Exit.UNSUPPORTED
    assert "older than this coat" in result.stderr and len(result.stderr.splitlines()) == 1


def test_events_are_told_a_line_each() -> None:
    stream = (
        ": hello\n\n"
        'id: 7\nevent: migration\ndata: {"number": 7, "at": "2026-01-01T00:00:00Z",\ndata:  "kind": "migration"}\n\n'
        'data: {"number": 8, "at": "2026-01-01T00:00:01Z", "kind": "binding", "node": "b"}\n\n'
    )
    asked: list[Request] = []
    with scripted({"GET /v1.0/events": (200, stream)}, asked) as url:
        lines = coat(url, "events", "--after", "6").stdout.splitlines()
        assert lines == [
            "7 2026-01-01T00:00:00Z migration {}",
            '8 2026-01-01T00:00:01Z binding {"node": "b"}',
        ]
        assert [json.loads(line)["number"] for line in coat(url, "events", "--json").stdout.splitlines()] == [7, 8]
    assert [request.headers.get("Last-Event-ID") for request in asked] == ["6", None]


def test_lists_are_limited_by_the_controller_or_else_here(served: tuple[str, World]) -> None:
    url, _ = served
    for to in ("b", "a", "b"):
        assert coat(url, "migrate", "web", to, "--watch").exit_code == 0
    assert len(told(coat(url, "migrations", "--limit", "2", "--json"))) == 2
    assert len(coat(url, "migrations").stdout.splitlines()) == 4


def test_a_topology_file_is_checked() -> None:
    file = ROOT / "topologies/paper.yaml"
    assert coat("http://127.0.0.1:1", "check", str(file)).stdout == f"{file}: 3 nodes, 1 networks, 4 containers\n"
    assert told(coat("http://127.0.0.1:1", "check", str(file), "--json"))["nodes"] == 3


def test_a_token_is_shown_once_and_stored_as_its_hash() -> None:
    one, other = (told(coat("http://127.0.0.1:1", "token", "ci", "migrate", "--json")) for _ in range(2))
    assert one["token"] != other["token"] and len(one["token"]) >= 43
    assert one["line"] == f"ci migrate sha256:{hashlib.sha256(one['token'].encode()).hexdigest()}"
    plain = coat("http://127.0.0.1:1", "token", "ci", "read").stdout.splitlines()
    assert [line.split(":")[0] for line in plain] == ["token", "line"]


def test_a_token_is_in_no_repr() -> None:
    assert "secret" not in repr(client.Client("http://x", "secret"))


def test_names_and_hosts_are_completed(served: tuple[str, World]) -> None:
    url, _ = served
    for words, index, wanted in (
        ("coat migrate w", 2, "web"),
        ("coat migrate web b", 3, "b"),
        ("coat migr", 1, "migrate"),
    ):
        environment = {"_COAT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
        result = CliRunner().invoke(main, [], prog_name="coat", env=environment | {"COAT_URL": url})
        assert f"plain,{wanted}" in result.stdout.splitlines(), result.output
    result = CliRunner().invoke(
        main,
        [],
        prog_name="coat",
        env={**environment, "COMP_WORDS": "coat remove w", "COMP_CWORD": "2", "COAT_URL": "http://127.0.0.1:1"},
    )
    assert result.output.strip() == ""


def test_every_command_has_json_and_a_sentence_of_help() -> None:
    for command in COMMANDS:
        assert command.help and command.help.split("\n")[0].endswith("."), command.name
        assert any("--json" in parameter.opts for parameter in command.params), command.name
