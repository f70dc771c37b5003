"""A container that puts odd things where the hook looks, and is to move all the same."""

import pytest

from tests.node.conftest import wait_until
from tests.node.journey import Journey
from tests.node.test_migration import PYTHON, journey  # noqa: F401

pytestmark = pytest.mark.lab


ODD = r"""
import os, socket, time
open("/proc/self/comm", "w").write("\x1b[2J)\n( S 1")
with open("/dev/shm/a", "w") as file: file.write("both")
os.link("/dev/shm/a", "/dev/shm/b")
os.symlink("/etc/passwd", "/dev/shm/link"); os.mkfifo("/dev/shm/fifo")
os.mkdir("/odd")
for name in (b"new\nline", b"\xff\xfe", b"link_remap.1", b" ", b"-rf", b"\x1b[2J", b"x" * 255, "\u202e".encode()):
    open(b"/odd/" + name, "w").write("odd")
    os.symlink("/", b"/odd/l" + name[:200])
os.link("/odd/ ", "/odd/hard")
os.setxattr("/odd/ ", "user.evil", b"\0\xff")
gone = []
for where in ("/odd", "/dev/shm"):
    gone.append(open(where + "/gone", "w"))
    print("ghost", file=gone[-1], flush=True)
    os.link(where + "/gone", where + "/other")
    os.unlink(where + "/gone")
with open("/etc/hosts", "a") as file: file.write("192.0.2.7 evil\n")
hosts = open("/etc/hosts", "a")
many = []
for i in range(200):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); many.append(one)
print("ready", flush=True)
while True: time.sleep(0.2)
"""

LOOK = r"""
import os
print(sorted(os.listdir(b"/odd")), sorted(os.listdir("/dev/shm")))
print(os.stat("/odd/ ").st_nlink, os.getxattr("/odd/ ", "user.evil"), os.path.samefile("/dev/shm/a", "/dev/shm/b"))
print(open("/odd/other").read(), open("/etc/hosts").read().count("evil"))
"""


def test_odd_names_and_links_follow_their_container(journey: Journey) -> None:  # noqa: F811
    journey.run(PYTHON, "python3", "-c", ODD)
    wait_until(lambda: "ready" in journey.lab.exec(journey.where, ["podman", "logs", "server"]).stdout, "the container")
    before = journey.execute("python3", "-c", LOOK)
    for _ in range(2):
        journey.move()
        assert journey.execute("python3", "-c", LOOK) == before
