"""The bootstrap, as a program of its own: nothing runs on a node but what has the digest that was announced."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from coat_ryu import shipment

SAID = "print('it ran')\n"


class Node:
    """The bootstrap with a directory of its own, with the forced command's digest or without."""

    def __init__(self, place: Path, allowed: str | None) -> None:
        self.directory = place / "run"
        program = f"ALLOWED = {allowed!r}\n{shipment.BOOTSTRAP}"
        self._program = program.replace(shipment.DIRECTORY, str(self.directory))

    def offer(self, digest: str, size: object, content: bytes) -> subprocess.CompletedProcess[bytes]:
        line = json.dumps({"sha256": digest, "size": size}).encode() + b"\n"
        return self.hear(line + content)

    def hear(self, said: bytes) -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-I", "-c", self._program]
        return subprocess.run(argv, input=said, capture_output=True, timeout=30)

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("*"))


RIGHT = SAID.encode()
DIGEST = hashlib.sha256(RIGHT).hexdigest()


@pytest.fixture(params=[None, DIGEST], ids=["any hook", "forced command"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    return Node(tmp_path, request.param)


def test_a_hook_with_its_digest_runs_and_is_kept(node: Node) -> None:
    done = node.offer(DIGEST, len(RIGHT), RIGHT)
    assert done.stdout == b"want\nhave\nit ran\n" and done.returncode == 0, done.stderr
    assert node.kept() == [f"hook-{DIGEST}.pyz"]
    assert node.offer(DIGEST, len(RIGHT), b"").stdout == b"have\nit ran\n"


@pytest.mark.parametrize(
    ("size", "content"),
    [
        (len(RIGHT), RIGHT.replace(b"ran", b"RAN")),
        (9, b"print(13)"),
        (len(RIGHT) - 1, RIGHT),
        (len(RIGHT), RIGHT[:-1]),
        (len(RIGHT) + 1, RIGHT + b"\n"),
        (0, b""),
        (-1, RIGHT),
        ("12", RIGHT),
        (None, RIGHT),
        (1 << 40, RIGHT),
    ],
)
def test_the_right_digest_with_other_bytes_runs_and_leaves_nothing(node: Node, size: object, content: bytes) -> None:
    done = node.offer(DIGEST, size, content)
    assert b"ran" not in done.stdout.lower() and b"13" not in done.stdout
    assert done.returncode != 0 and (b"sha256" in done.stdout or b"size" in done.stdout or b"closed" in done.stderr)
    assert node.kept() == [] and b"Traceback" not in done.stderr


def test_a_file_that_was_planted_is_replaced_not_run(node: Node) -> None:
    node.directory.mkdir(mode=0o700)
    planted = node.directory / f"hook-{DIGEST}.pyz"
    planted.write_text("print('planted')")
    assert node.offer(DIGEST, len(RIGHT), RIGHT).stdout == b"want\nhave\nit ran\n"
    assert planted.read_bytes() == RIGHT
    planted.write_text("print('planted')")
    assert node.offer(DIGEST, 17, b"print('planted')\n").stdout.startswith(b"want\nwhat came ")
    assert node.offer(DIGEST, len(RIGHT), RIGHT).stdout == b"want\nhave\nit ran\n"


def test_a_link_is_never_followed(node: Node, tmp_path: Path) -> None:
    """Not even to the right content: whoever owns it may change it between the look and the start."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(RIGHT)
    node.directory.mkdir(mode=0o700)
    (node.directory / f"hook-{DIGEST}.pyz").symlink_to(elsewhere)
    assert node.offer(DIGEST, len(RIGHT), RIGHT).stdout == b"want\nhave\nit ran\n"
    assert not (node.directory / f"hook-{DIGEST}.pyz").is_symlink()


def test_a_directory_that_others_may_write_is_refused(node: Node) -> None:
    node.directory.mkdir()
    node.directory.chmod(0o777)
    done = node.offer(DIGEST, len(RIGHT), RIGHT)
    assert done.returncode == 1 and b"may be written by others" in done.stdout
    assert node.kept() == []


@pytest.mark.parametrize(
    "said",
    [
        b"\n",
        b"[]\n",
        b'"x"\n',
        b"{}\n",
        b'{"sha256": 5, "size": 3}\nabc',
        b'{"sha256": "../../evil", "size": 3}\nabc',
        b'{"sha256": "' + b"0" * 63 + b'", "size": 3}\nabc',
        b"x" * 10_000,
        b"\xff\xfe\n",
    ],
)
def test_an_offer_that_is_none_is_refused_in_a_sentence(node: Node, said: bytes) -> None:
    done = node.hear(said)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stdout.startswith((b"this is no offer", b"this node takes the hook "))
    assert node.kept() == []


def test_what_the_node_says_after_the_delivery_is_told() -> None:
    answers = iter(["want", "what came has another sha256"])
    with pytest.raises(ValueError, match="another sha256"):
        shipment.deliver(lambda data: None, lambda: next(answers))


def test_a_hook_allows_itself_all_descriptors(tmp_path: Path) -> None:
    """sshd gives its children few, and strangers at a port may use them up."""
    few = "import os, resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
    few += "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)); os.execv(sys.executable, sys.argv[1:])"
    (tmp_path / "hook.pyz").write_bytes(shipment.archive().content)
    argv = [sys.executable, "-c", few, sys.executable, "-I", str(tmp_path / "hook.pyz")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hook:
        assert hook.stdin is not None and hook.stdout is not None
        hook.stdin.write(b'{"id": 1, "verb": "clock", "args": {}}\n')
        hook.stdin.flush()
        assert json.loads(hook.stdout.readline())["ok"] is True
        limits = Path(f"/proc/{hook.pid}/limits").read_text()
        soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
        assert soft == hard != "64"
        hook.stdin.close()
