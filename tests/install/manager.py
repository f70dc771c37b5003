"""A ryu-manager of some environment, with ports of its own."""

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# A proxy of the environment has no business with a server on loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20


@dataclass(frozen=True)
class Manager:
    process: subprocess.Popen[bytes]
    log: Path
    rest: tuple[str, int]

    def get(self, path: str) -> tuple[int, object]:
        """Status and JSON of a GET, tried until the server is there. AssertionError with the log if it never is."""
        url = f"http://{self.rest[0]}:{self.rest[1]}{path}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with OPENER.open(url, timeout=10) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"{url} does not answer:\n{self.log.read_text()}")

    def page(self) -> tuple[str, bytes]:
        """Kind and content of /ui, from a manager that has answered before."""
        with OPENER.open(f"http://{self.rest[0]}:{self.rest[1]}/ui", timeout=10) as answer:
            return answer.headers.get_content_type(), answer.read()


@contextlib.contextmanager
def running(environment: Path, app: str, directory: Path, options: str = "", *arguments: str) -> Iterator[Manager]:
    """``ryu-manager APP`` of a virtual environment, started in ``directory``, which keeps its log and journal.

    ``options`` are lines of the group ``[coat]``, ``arguments`` ryu-manager's own.
    """
    directory.mkdir(exist_ok=True)
    config, log = directory / "coat.conf", directory / "manager.log"
    config.write_text(f"[coat]\njournal = {directory}/journal.db\n{options}\n")
    rest, openflow = free_port(), free_port()
    command = [str(environment / "bin" / "ryu-manager"), "--config-file", str(config), app]
    command += ["--wsapi-host", "127.0.0.1", "--wsapi-port", str(rest)]
    command += ["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", str(openflow), *arguments]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Manager(process, log, ("127.0.0.1", rest))
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
