"""The same migration without COAT: Podman alone, no overlay, the container on the host's own address.

``refused``: the state with its connection is brought to the destination, where its address does not exist, so CRIU
refuses to restore it. ``closed``: CRIU is told to close connections (``tcp-close``), and the container starts; its
client is left without a server. Nothing here goes on; it is there to be seen.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mininet_scenarios.paper.trial import DESTINATION, DEVICE, SOURCE, THROUGHPUT, Scene, Trial, kind_of, numbered

NAME, PORT, IMAGE = "coat-baseline", "5301", "localhost/coat-iperf3"
FOLDER, CONFIG = "/tmp/coat-baseline", "/tmp/coat-baseline.conf"
FILES_PORT = "5302"
SECONDS = 8

# CRIU's reason is in the log that Podman's error names: soccr is its part for sockets.
TELL = """\
said=$("$@" 2>&1) && exit
echo "$said" >&2
sed -n 's/.*Error (soccr[^)]*): //p' "$(echo "$said" | sed -n 's/^log file: //p')" >&2
exit 1
"""
FETCH = """\
import sys, time, urllib.request
for _ in range(100):
    try:
        urllib.request.urlretrieve(sys.argv[1], sys.argv[2])
        break
    except OSError:
        time.sleep(0.05)
else:
    sys.exit("nobody serves it")
"""


class Baseline(Trial):
    name = "baseline"
    title = "Without COAT: Podman alone, a new address"
    setting = THROUGHPUT
    guess = 15.0

    def keys(self, runs: int) -> list[str]:
        return numbered(("refused", "closed"), runs, most=5)

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        place, here, there = scene.place, scene.place.address(SOURCE), scene.place.address(DESTINATION)
        with served(scene, close=kind_of(key) == "closed"):
            client = place.popen(DEVICE, iperf3_client(here, SECONDS), stdout=subprocess.PIPE, text=True)
            time.sleep(2)
            steps, error = move(scene)
            output, _ = client.communicate(timeout=SECONDS + 60)
            again = place.exec(DEVICE, iperf3_client(there, 1), check=False, timeout=30)
        return {"workload": "iperf3", **judged(output), "steps_s": steps, "restore_error": error} | {
            "new_connection_works": "error" not in json.loads(again.stdout or '{"error": "no answer"}')
        }


def iperf3_client(address: str, seconds: int) -> list[str]:
    """In a container, for a host needs Podman and no iperf3. An iperf3 that waits in vain is ended from outside."""
    iperf3 = ["iperf3", "-c", address, "-p", PORT, "-R", "-t", str(seconds), "-i", "0.1", "-J", "--rcv-timeout", "5000"]
    return ["timeout", str(seconds + 20), "podman", "run", "--rm", "--network", "host", IMAGE, *iperf3]


@contextmanager
def served(scene: Scene, *, close: bool) -> Iterator[None]:
    """The server runs on the source, on the source's own address; nothing of it is left at the end."""
    annotation = ["--annotation", f"org.criu.config={CONFIG}"] if close else []
    run = ["podman", "run", "-d", "--name", NAME, "--network", "host", *annotation, IMAGE, "iperf3", "-s", "-p", PORT]
    try:
        for host in (SOURCE, DESTINATION):
            scene.place.exec(host, ["sh", "-c", f"mkdir -p {FOLDER}; echo tcp-close >{CONFIG}"])
        scene.place.exec(SOURCE, run)
        time.sleep(0.5)
        yield
    finally:
        for host in (SOURCE, DESTINATION):
            clean = f"podman rm -f -t 0 {NAME}; rm -rf {FOLDER} {CONFIG}"
            scene.place.exec(host, ["sh", "-c", clean], check=False)


def move(scene: Scene) -> tuple[dict[str, float], str | None]:
    """The traditional steps: seconds of each, and why the restore failed."""
    archive = f"{FOLDER}/state.tar"
    url = f"http://{scene.place.address(SOURCE)}:{FILES_PORT}/state.tar"
    checkpoint = [
        "podman",
        "container",
        "checkpoint",
        "--tcp-established",
        "--compress=none",
        "--export",
        archive,
        NAME,
    ]
    restore = ["podman", "container", "restore", "--tcp-established", "--import", archive]
    seconds, began = {}, time.monotonic()

    def step(name: str, host: str, argv: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
        nonlocal began
        done = scene.place.exec(host, argv, check=check)
        seconds[name], began = time.monotonic() - began, time.monotonic()
        return done

    step("checkpoint", SOURCE, checkpoint)
    files = scene.place.popen(
        SOURCE,
        ["python3", "-m", "http.server", FILES_PORT, "--directory", FOLDER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        step("transfer", DESTINATION, ["python3", "-c", FETCH, url, archive])
    finally:
        files.terminate()
        files.communicate(timeout=20)
    restored = step("restore", DESTINATION, ["sh", "-c", TELL, "sh", *restore], check=False)
    return seconds, None if restored.returncode == 0 else restored.stderr.strip()[-400:]


def judged(output: str) -> dict[str, Any]:
    """What the client says at its end."""
    try:
        report = json.loads(output)
    except ValueError:
        report = {"error": "the client never came to its end", "intervals": []}
    intervals = [interval["sum"]["bytes"] for interval in report["intervals"]]
    resumed = "error" not in report and sum(intervals[-10:]) > 0
    return {
        "resumed": resumed,
        "lost_bytes": 0,
        "trouble": report.get("error") or (None if resumed else "no byte arrived any more"),
    }
