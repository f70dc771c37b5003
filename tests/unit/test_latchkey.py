"""The controller's own token: who gets it, and who does not."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from webob import Request, Response

from coat_ryu import latchkey, rest
from coat_ryu.cli.client import Exit
from coat_ryu.doors import BadTokens, Caller, Doors, Unauthorized
from coat_ryu.latchkey import challenge, file_in, listeners, offered, own_token
from mininet_scenarios.experiment import Controller, Refused
from tests.unit.served import served
from tests.unit.test_cli import coat
from tests.unit.test_rest import FakeServices


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / 'a, "b" %.token'


@pytest.fixture
def url(path: Path) -> Iterator[str]:
    """A controller with nothing but its own token."""
    doors = Doors((own_token(path),), hint=challenge(path))

    def answer(request: Request) -> Response:
        return rest.dispatch(FakeServices(), request, doors)

    with served(answer) as where:
        yield where


def test_own_token_is_made_once_for_its_owner_alone(path: Path) -> None:
    first = own_token(path)
    assert own_token(path) == first and first.role == "admin"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert hashlib.sha256(path.read_text().strip().encode()).hexdigest() == first.digest
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    path.unlink()
    assert own_token(path) != first


def test_own_token_that_others_may_know_is_refused(path: Path, tmp_path: Path) -> None:
    own_token(path)
    path.chmod(0o640)
    with pytest.raises(BadTokens, match="mode 0600; remove it"):
        own_token(path)
    path.write_text("")
    path.chmod(0o600)
    with pytest.raises(BadTokens, match="mode 0600; remove it"):
        own_token(path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadTokens, match="cannot be kept there"):
        own_token(path)


def test_coat_on_the_same_machine_finds_the_token(url: str) -> None:
    assert coat(url, "containers").exit_code == 0
    assert coat(url, "remove", "web").exit_code == 0
    assert Controller(url).get("/v1.0/containers")


def test_coat_that_may_not_read_the_token_says_where_it_is(url: str, path: Path) -> None:
    path.chmod(0o644)  # not what the controller made: so whose is it?
    refused = coat(url, "containers")
    assert refused.exit_code == Exit.DENIED and f"who may read {path}" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    with pytest.raises(Refused, match="401"):
        Controller(url).get("/v1.0/containers")


def test_a_wrong_token_is_not_replaced_by_another(url: str) -> None:
    assert coat(url, "containers", COAT_TOKEN="wrong").exit_code == Exit.DENIED


@pytest.mark.parametrize("spoil", ["link", "pipe", "other words", "relative", "not loopback"])
def test_a_false_controller_gets_no_file_it_names(spoil: str, url: str, path: Path, tmp_path: Path) -> None:
    own_token(path)
    header = challenge(path)
    assert offered(url, header) == path.read_text().strip()
    bait = tmp_path / "bait"
    if spoil == "link":
        bait.symlink_to(path)
    elif spoil == "pipe":
        os.mkfifo(bait, 0o600)
    elif spoil == "other words":
        bait.write_text("root:$6$secret:19000::::::\n")
        bait.chmod(0o600)
    elif spoil == "relative":
        bait = Path(os.path.relpath(path))
    else:
        bait, url = path, url.replace("127.0.0.1", "192.0.2.1")
    assert offered(url, challenge(bait)) is None


def test_a_file_goes_to_nobody_but_its_owner(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = challenge(path)
    for seen in (set(), {os.geteuid() + 1}, {os.geteuid(), os.geteuid() + 1}):
        monkeypatch.setattr(latchkey, "listeners", lambda lines, port, seen=seen: seen)
        assert offered(url, header) is None


def test_listeners_of_a_port_are_told_by_the_kernel_s_table() -> None:
    table = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 41 1",
        "   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000   997        0 42 1",
        "   2: 0100007F:1F90 0100007F:A001 01 00000000:00000000 00:00000000 00000000   996        0 43 1",
    ]
    assert listeners(table, 8080) == {998}


def test_the_file_is_named_to_callers_on_this_machine_only(path: Path) -> None:
    doors = Doors((own_token(path),), hint=challenge(path))
    for address, named in (("127.0.0.1", path), ("::1", path), ("192.0.2.9", None)):
        with pytest.raises(Unauthorized) as refusal:
            doors.allow(Caller(address), "read")
        assert file_in(refusal.value.headers["WWW-Authenticate"]) == named
