"""A container's variables on a real host: exact in the container, and on no command line meanwhile."""

import json
from collections.abc import Iterator

import pytest

from coat_ryu.remote import Remote
from mininet_scenarios.lab import Lab
from tests.node.conftest import wait_until
from tests.node.journey import Journey

pytestmark = pytest.mark.lab

HUSH = "hush-f3a9"
VARIABLES = {
    "A": "a=b=c",
    "EMPTY": "",
    "LINES": f"one\ntwo\n\n {HUSH}\n",
    "BREAK": "ends in a carriage return\r",
    "QUOTED": "\"x\" 'y' $HOME `id` \\n # no comment",
    "SPACES": "  before and after  ",
    "UMLAUT": "grün \u2028 \U0001f600",
    "LONG": "x" * 70_000,
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "SECRET": HUSH,
}

WATCH = f"""
import glob, sys, time
print("looks", flush=True)
seen, give_up = set(), time.monotonic() + 60
while time.monotonic() < give_up and not glob.glob("/tmp/enough"):
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try: said = open(path, "rb").read()
        except OSError: continue
        if b"{HUSH}" in said and b"glob.glob" not in said: seen.add(said.split(bytes(1))[0].decode())
print(sorted(seen))
"""


@pytest.fixture
def way(lab: Lab, left: Remote, right: Remote) -> Iterator[Journey]:
    journey = Journey(lab, left, right)
    journey.set_up()
    yield journey
    lab.exec("left", ["rm", "-f", "/tmp/enough"])
    journey.tear_down()


def test_variables_arrive_exactly_and_on_no_command_line(way: Journey, lab: Lab, left: Remote) -> None:
    command = [
        "python3",
        "-c",
        "import json, os, time; print(json.dumps(dict(os.environ)), flush=True); time.sleep(99)",
    ]
    spec = {"name": "server", "image": "localhost/coat-python", "command": command, "netns": "coat-server"}
    watch = lab.popen("left", ["python3", "-c", WATCH], stdout=-1, text=True)
    assert watch.stdout is not None and watch.stdout.readline() == "looks\n"
    left.call("container_run", {**spec, "env": VARIABLES, "spec": json.dumps({"env": VARIABLES["SECRET"]})}, 60)
    wait_until(lambda: lab.exec("left", ["podman", "logs", "server"]).stdout.endswith("\n"), "the container's word")
    lab.exec("left", ["touch", "/tmp/enough"])
    found = json.loads(lab.exec("left", ["podman", "logs", "server"]).stdout)
    assert {key: found.get(key) for key in VARIABLES} == VARIABLES
    assert watch.communicate(timeout=60)[0] == "[]\n"
    inspected = left.call("container_inspect", {"name": "server"}).result
    assert inspected["spec"] == {"env": HUSH}
