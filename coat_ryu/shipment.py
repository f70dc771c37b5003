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

SIZE_MAX = 1 << 26
"""Bytes of a hook, at the most; today's has less than a hundredth of that."""

BOOTSTRAP = f"""\
import hashlib, json, os, re, sys
def receive(size):
    data = bytearray()
    while len(data) < size:
        part = os.read(0, min(size - len(data), 1 << 20))
        if not part: sys.exit("the channel closed")
        data += part
    return bytes(data)
def read(path):
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file: return file.read()
    except OSError: return b""
def digest(data): return hashlib.sha256(data).hexdigest()
def say(word): os.write(1, word.encode() + b"\\n")
def refuse(why):
    say(why)
    sys.exit(1)
line = b""
while not line.endswith(b"\\n") and len(line) < 1024: line += receive(1)
try: wanted = json.loads(line)
except (ValueError, RecursionError): wanted = None
sha256, size = (wanted.get("sha256"), wanted.get("size")) if isinstance(wanted, dict) else (None, None)
if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{{64}}", sha256):
    refuse("this is no offer of a hook: a JSON object with sha256 and size is wanted")
if ALLOWED not in (None, sha256):
    refuse("this node takes the hook " + ALLOWED[:16] + " and no other; install coat-hook anew")
if type(size) is not int or not 0 < size <= {SIZE_MAX}:
    refuse("this is no offer of a hook: its size must be a number from 1 to {SIZE_MAX}")
if sys.version_info < (3, 11):
    refuse("python3 is " + sys.version.split()[0] + ", 3.11 or newer is wanted")
os.makedirs("{DIRECTORY}", mode=0o700, exist_ok=True)
owned = os.lstat("{DIRECTORY}")
if owned.st_uid != os.geteuid() or owned.st_mode & 0o170022 != 0o040000:
    refuse("{DIRECTORY} may be written by others, or is no directory; remove it")
path = "{DIRECTORY}/hook-" + sha256 + ".pyz"
have = digest(read(path)) == sha256
if not have:
    say("want")
    data = receive(size)
    if digest(data) != sha256: refuse("what came has another sha256 than was announced; it is not run")
    part = path + "." + str(os.getpid())
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file: file.write(data)
        os.rename(part, path)
    except OSError as error:
        if os.path.exists(part): os.unlink(part)
        refuse("the hook could not be kept: " + str(error))
say("have")
os.environ.update(MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="131072")
os.execv(sys.executable, [sys.executable, "-I", path])
"""
"""Reads its input a byte at a time until the header has ended: what follows belongs to the hook. Nothing is run or
kept but what has the digest that was announced, whether it has just come or was there before.

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
        answer = receive_line()
    if answer != "have":
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
