"""The commands in the documents, run in the order in which they stand; what they print is what stands there."""

import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mininet_scenarios.lab import CHECKOUT, Lab
from tests.blocks import Command, commands, unlike

PATIENCE = 120.0
PAGES = ("docs/tutorial.md", "docs/operate.md", "docs/lab.md")


class Shell:
    """One bash for a whole page. ``run`` gives what a command printed, on both of its outputs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, command: str) -> tuple[int, str]:
        assert self._process.stdin and self._process.stdout
        mark = f"--- {os.urandom(8).hex()} "
        self._process.stdin.write(f"{command}\nprintf '\\n{mark}%s\\n' $?\n".encode())
        self._process.stdin.flush()
        seen, deadline = "", time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not (end := re.search(rf"^{mark}(\d+)$", seen, re.MULTILINE)):
                assert selector.select(deadline - time.monotonic()), f"{command}: did not end:\n{seen}"
                part = os.read(self._process.stdout.fileno(), 65536)
                assert part, f"{command}: the shell ended:\n{seen}"
                seen += part.decode()
        return int(end[1]), seen[: end.start()].rstrip("\n")


@contextmanager
def shell(name: str) -> Iterator[Shell]:
    """In a network of its own, where port 8080 is free, and with a lab of its own behind `./coat-lab`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COAT_")}
    environment |= {"COAT_LAB_NAME": name, "COAT_LAB_CACHE": os.environ.get("COAT_LAB_CACHE", "")}
    command = ["unshare", "--net", "--", "sh", "-c", "ip link set lo up && exec bash"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=CHECKOUT, env=environment
    ) as process:
        try:
            yield Shell(process)
        finally:
            Lab(name=name).down()
            process.kill()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str) -> None:
    assert shutil.which("unshare")
    wanted: list[Command] = list(commands(CHECKOUT / page))
    assert wanted
    with shell(f"pages-{os.getpid()}") as bash:
        for command in wanted:
            status, said = bash.run(command.text)
            assert status == 0, f"{page}: {command.text}: status {status}:\n{said}"
            assert not unlike(command.output, said), f"{page}: {command.text}: {unlike(command.output, said)}\n{said}"
