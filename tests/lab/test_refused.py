"""What CRIU cannot move, or could not restore, is refused before the freeze: told by its cause, and left as it was."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from coat_ryu.node import inside
from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import EDGES, wait_for

NAME = "odd"
SERVE = "import socket, time; listener = socket.create_server(('', 7007)); print('ready', flush=True); time.sleep(1e6)"
PROGRAMS = {
    "link_local_connection": """
import socket
words = next(line.split() for line in open("/proc/net/if_inet6") if line.startswith("fe80") and "eth0" in line)
listener = socket.socket(socket.AF_INET6)
listener.bind((socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0])), 7120, 0, int(words[1], 16)))
listener.listen()
client = socket.socket(socket.AF_INET6)
client.connect(listener.getsockname())
server, _ = listener.accept()
""",
    "message_queue": """
import ctypes, os
queue = ctypes.CDLL(None).mq_open(b"/queue", os.O_CREAT | os.O_RDWR, 0o600, None)
assert queue > 0
""",
    "mptcp_socket": "import socket; mptcp = socket.socket(2, 1, 262); mptcp.bind(('', 7121)); mptcp.listen()",
    "no_cap_sys_resource": "import os; os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)",
}
# PTRACE_SEIZE (linux/ptrace.h)
TRACE = """
import ctypes, signal, sys
assert ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0
print("tracing", flush=True)
signal.pause()
"""

Setting = Callable[[str], str]


@pytest.fixture
def setting(lab: Lab, made: Any) -> Setting:
    """Makes the container with a program that goes on to serve."""

    def make(program: str) -> str:
        made(NAME, EDGES[0], "python", "python3", "-c", f"{program}\n{SERVE}")
        wait_for(lambda: "ready" in lab.exec(EDGES[0], ["podman", "logs", NAME]).stdout, what="the program")
        return identify(lab, EDGES[0])

    return make


def identify(lab: Lab, host: str) -> str:
    return lab.exec(host, ["podman", "inspect", "--format={{.State.Status}} {{.State.Pid}}", NAME]).stdout.strip()


def refused(lab: Lab, controller: Controller, cause: str, where: str = EDGES[0]) -> str:
    """By the plan and by the migration; the sentence."""
    before, to = identify(lab, where), EDGES[where == EDGES[0]]
    plan = controller.post("/v1.0/plan", {"container": NAME, "to": to})
    assert cause in [refusal["cause"] for refusal in plan["refusals"]], plan
    record = controller.migrate(NAME, to)
    assert (record["state"], record["error"]["cause"]) == ("rolled_back", cause), record["error"]
    assert [step["name"] for step in record["steps"]] == ["preflight"]
    assert identify(lab, where) == before and before.startswith("running ")
    return str(record["error"]["message"])


@pytest.mark.parametrize("cause", PROGRAMS)
def test_what_criu_cannot_move_is_refused_before_the_freeze(
    lab: Lab, controller: Controller, setting: Setting, cause: str
) -> None:
    setting(PROGRAMS[cause])
    if cause == "no_cap_sys_resource" and inside.has_capability(inside.CAP_SYS_RESOURCE):  # the hosts have what we have
        assert controller.migrate(NAME, EDGES[1])["state"] == "succeeded"
    else:
        refused(lab, controller, cause)


@contextmanager
def traced(lab: Lab, pid: str) -> Iterator[None]:
    with lab.popen(EDGES[0], ["python3", "-c", TRACE, pid], stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None and tracer.stdout.readline() == "tracing\n"
        yield
        tracer.kill()


def test_a_traced_container_is_refused_at_once_and_moves_later(
    lab: Lab, controller: Controller, setting: Setting
) -> None:
    pid = setting("").split()[1]
    with traced(lab, pid):
        began = time.monotonic()
        refused(lab, controller, "is_traced")
        assert time.monotonic() - began < 8
    assert controller.migrate(NAME, EDGES[1])["state"] == "succeeded"


def test_what_was_started_by_exec_is_refused_while_it_runs(lab: Lab, controller: Controller, setting: Setting) -> None:
    """Attached to a person's terminal it is ended by a move; left behind after a move it would end the container."""
    setting("")
    with ExitStack() as stack:
        session = stack.enter_context(lab.popen(EDGES[0], ["podman", "exec", NAME, "sleep", "1000"], stdin=-3))
        wait_for(lambda: "sleep" in lab.exec(EDGES[0], ["podman", "top", NAME, "comm"]).stdout, what="the session")
        assert "sleep (pid " in refused(lab, controller, "has_exec_sessions")
        lab.exec(EDGES[0], ["podman", "exec", NAME, "killall", "sleep"])
        session.wait(30)
    assert controller.migrate(NAME, EDGES[1])["state"] == "succeeded"
    lab.exec(EDGES[1], ["podman", "exec", NAME, "sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 &"])
    assert "sleep (pid " in refused(lab, controller, "foreign_time", EDGES[1])
    lab.exec(EDGES[1], ["podman", "exec", NAME, "killall", "sleep"])
    assert controller.migrate(NAME, EDGES[0])["state"] == "succeeded"
