"""Remotes under eventlet, as in ryu-manager: run by a test. Prints what it saw as JSON."""

import eventlet

eventlet.monkey_patch()

import json  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

from coat_ryu.remote import Remote  # noqa: E402
from coat_ryu.ssh import Login  # noqa: E402

CALLS, CALLERS = 50, 8


def main() -> None:
    remotes = []
    for name, address in (("left", "10.9.0.1"), ("right", "10.9.0.2")):
        up = threading.Event()
        remote = Remote(name, Login(address, 22, "root", sys.argv[1], sys.argv[2]), up.set)
        remote.start()
        assert up.wait(60), remote.status()
        remotes.append(remote)
    stalls, times, wrong = [0.0], [], []

    def tick() -> None:
        while True:
            before = time.monotonic()
            eventlet.sleep(0.001)
            stalls.append(time.monotonic() - before - 0.001)

    def ask(number: int) -> None:
        remote = remotes[number % 2]
        for _ in range(CALLS):
            before = time.monotonic()
            if remote.call("hello").result["hostname"] != remote.name:
                wrong.append(number)
            times.append(time.monotonic() - before)

    eventlet.spawn(tick)
    callers = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    single = []
    for _ in range(100):
        before = time.monotonic()
        remotes[0].call("clock")
        single.append(time.monotonic() - before)
    for remote in remotes:
        remote.close()
    seen = {"calls": len(times), "wrong": wrong, "longest_stall": max(stalls)}
    print(json.dumps({**seen, "median": sorted(times)[len(times) // 2], "clock_median": sorted(single)[50]}))


main()
