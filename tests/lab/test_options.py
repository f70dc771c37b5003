"""What CRIU forgets of sockets and timers is there again after every move."""

import json
from typing import Any

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import EDGES, wait_for

PROGRAM = r"""
import ctypes, json, os, select, socket, struct, time
timerfd_settime = ctypes.CDLL(None).timerfd_settime
timer = ctypes.CDLL(None).timerfd_create(1, 0o4000)
timerfd_settime(timer, 0, (ctypes.c_long * 4)(0, 200_000_000, 0, 200_000_000), None)
listener = socket.create_server(("", 7100))
for option, value in ((9, 5), (23, 16), (18, 7777)): listener.setsockopt(6, option, value)
client = socket.create_connection(("127.0.0.1", 7100))
client.sendall(b"x")
server, _ = listener.accept()
OPTIONS = {(6, 18): 54321, (6, 25): 8192, (6, 8): 20, (6, 16): 1, (6, 7): 3, (1, 47): 5_000_000, (0, 10): 2, (0, 11): 1}
for (level, option), value in OPTIONS.items(): server.setsockopt(level, option, value)
server.setsockopt(6, 13, b"reno")
mine = socket.if_nametoindex("eth0")
def member(family, group):
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.bind(("", 7400 + family))
    packed = socket.inet_pton(family, group)
    padded = packed if len(packed) == 4 else bytes(4) + packed
    name = struct.pack("@HH", family, 0) + padded
    one.setsockopt(0 if len(packed) == 4 else 41, 42, struct.pack("@I4x128s", mine, name))
    return one, group
def hears(one, group):
    sender = socket.socket(one.family, socket.SOCK_DGRAM)
    if one.family == socket.AF_INET: sender.setsockopt(0, 32, struct.pack("@4s4si", bytes(4), bytes(4), mine))
    else: sender.setsockopt(41, 17, mine)
    sender.sendto(b"hello", (group, 7400 + one.family))
    return bool(select.select([one], [], [], 2)[0]) and one.recv(9) == b"hello"
groups = [member(socket.AF_INET, "239.1.2.3"), member(socket.AF_INET6, "ff15::7")]
def fires():
    if not select.select([timer], [], [], 2)[0]: return False
    os.read(timer, 8)
    return bool(select.select([timer], [], [], 2)[0])
def look():
    options = [server.getsockopt(*key) for key in OPTIONS] + [server.getsockopt(6, 13, 16).rstrip(b"\0").decode()]
    of_listener = [listener.getsockopt(6, option) for option in (9, 23, 18)]
    return {"options": options, "listener": of_listener, "hears": [hears(*one) for one in groups], "fires": fires()}
orders = socket.create_server(("", 7007))
while True:
    connection, _ = orders.accept()
    connection.sendall(json.dumps(look()).encode()); connection.close()
"""
ASK = "import socket; print(socket.create_connection(('127.0.0.1', 7007), 10).makefile().read())"


def test_what_criu_forgets_is_set_again_after_each_move(lab: Lab, controller: Controller, made: Any) -> None:
    made("options", EDGES[0], "python", "python3", "-c", PROGRAM)

    def ask() -> Any:
        argv = ["nsenter", "--net=/run/netns/coat-options", "python3", "-c", ASK]
        return json.loads(lab.exec(controller.where("options"), argv, check=False).stdout or "null")

    before = wait_for(ask, what="the program")
    assert before["options"] == [54321, 8192, 20, 1, 3, 5_000_000, 2, 1, "reno"]
    assert (before["hears"], before["fires"]) == ([True, True], True)
    for to in (EDGES[1], EDGES[0]):
        record = controller.migrate("options", to)
        assert (record["state"], record["error"]) == ("succeeded", None)
        assert "options_lost" not in [warning["cause"] for warning in record["warnings"]], record["warnings"]
        checkpoint = next(step["detail"] for step in record["steps"] if step["name"] == "checkpoint")
        assert (checkpoint["sockets"] >= 6, checkpoint["sockets_left_out"]) == (True, 0)
        assert ask() == before
