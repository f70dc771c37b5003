"""The hook as one file, and how it gets onto a node over an SSH channel.

The archive holds ``coat_ryu.node`` and this environment's pyroute2. A node keeps it under its digest, so that a
reconnect sends nothing.
"""

import functools
import hashlib
import importlib.util
import io
import json
import shlex
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = "/run/coat"

MAIN = "from coat_ryu.node.hook import main\n\nmain()\n"

BOOTSTRAP = f"""\
import hashlib, json, os, sys
def receive(size):
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part: sys.exit("the channel closed")
        data += part
    return data
def read(path):
    try:
        with open(path, "rb") as file: return file.read()
    except OSError: return b""
def say(word): os.write(1, word.encode() + b"\\n")
line = b""
while not line.endswith(b"\\n"): line += receive(1)
wanted = json.loads(line)
if ALLOWED not in (None, wanted["sha256"]):
    say("this node takes the hook " + ALLOWED[:16] + " and no other; install coat-hook anew")
    sys.exit(1)
if sys.version_info < (3, 11):
    say("python3 is " + sys.version.split()[0] + ", 3.11 or newer is wanted")
    sys.exit(1)
os.makedirs("{DIRECTORY}", mode=0o700, exist_ok=True)
path = "{DIRECTORY}/hook-" + wanted["sha256"] + ".pyz"
have = hashlib.sha256(read(path)).hexdigest() == wanted["sha256"]
say("have" if have else "want")
if not have:
    data = receive(wanted["size"])
    part = path + "." + str(os.getpid())
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file: file.write(data)
    os.rename(part, path)
os.environ.update(MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="131072")
os.execv(sys.executable, [sys.executable, "-I", path])
"""
"""Reads its input a byte at a time until the header has ended: what follows belongs to the hook.

``ALLOWED`` is the digest of the one hook that is taken, or None for any.

The hook serves each request in a thread, with buffers of a megabyte: glibc would give each thread an arena of its own
and keep what was freed (mallopt(3)), and the hook grew by 70 KB a migration.
"""

COMMAND = shlex.join(["python3", "-I", "-c", "ALLOWED = None\n" + BOOTSTRAP])


def forced_command() -> str:
    """A program for ``command=`` in a node's authorized_keys: whatever is asked for, it takes this hook or ends."""
    return f'#!/usr/bin/python3 -I\nALLOWED = "{archive().sha256}"\n{BOOTSTRAP}'


@dataclass(frozen=True, slots=True)
class Archive:
    content: bytes
    sha256: str

    def offer(self) -> bytes:
        """What the bootstrap reads first."""
        return json.dumps({"sha256": self.sha256, "size": len(self.content)}).encode() + b"\n"


@functools.cache
def archive() -> Archive:
    """The hook as a zip that Python runs. The same sources give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        ours = Path(__file__).parent
        _add(file, "__main__.py", MAIN.encode())
        _add(file, "coat_ryu/__init__.py", (ours / "__init__.py").read_bytes())
        _add_package(file, "coat_ryu/node", ours / "node")
        _add_package(file, "pyroute2", _package("pyroute2"))
    content = buffer.getvalue()
    return Archive(content, hashlib.sha256(content).hexdigest())


def deliver(send: Callable[[bytes], None], receive_line: Callable[[], str]) -> None:
    """Controller's side of the bootstrap. Raises ValueError with what the node said if it does not take the hook."""
    hook = archive()
    send(hook.offer())
    answer = receive_line()
    if answer == "want":
        send(hook.content)
    elif answer != "have":
        raise ValueError(answer or "the node closed the channel; is python3 there?")


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None, f"{name} is not installed"
    return Path(found.origin).parent


def _add_package(file: zipfile.ZipFile, name: str, directory: Path) -> None:
    for path in sorted(directory.rglob("*.py")):
        _add(file, f"{name}/{path.relative_to(directory)}", path.read_bytes())


def _add(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    # A fixed date: the digest must not depend on when the files were installed.
    file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    sys.stdout.write(forced_command())
