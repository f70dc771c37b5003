"""Tokens, roles, browsers and rates: who comes in, and what the others are told."""

import hashlib

import pytest

from coat_ryu.doors import (
    BadClients,
    BadTokens,
    Caller,
    Doors,
    Forbidden,
    Role,
    TooManyRequests,
    Unauthorized,
    parse_clients,
    parse_tokens,
)
from coat_ryu.listen import refuse_open_door
from coat_ryu.tls import OpenDoor, Tls
from tests.unit.test_rest import ask

SECRET = "b3" * 32
LINES = "\n".join(
    f"{name} {role} sha256:{hashlib.sha256((SECRET + name).encode()).hexdigest()}"
    for name, role in (("reader", "read"), ("mover", "migrate"), ("boss", "admin"))
)


def doors() -> Doors:
    return Doors(parse_tokens("# ours\n\n" + LINES, "tokens"))


def bearer(name: str) -> str:
    return f"Bearer {SECRET}{name}"


@pytest.mark.parametrize(
    "line",
    [
        "x read sha256:12",
        "x king sha256:" + "0" * 64,
        "x read md5:" + "0" * 64,
        "x read " + "0" * 64,
        "x y read sha256:" + "0" * 64,
        "",
        LINES + "\n" + LINES,
    ],
)
def test_a_broken_token_file_is_refused_without_showing_it(line: str) -> None:
    with pytest.raises(BadTokens) as refusal:
        parse_tokens(line, "tokens")
    assert "000000" not in str(refusal.value)


@pytest.mark.parametrize(
    ("who", "needed", "refusal"),
    [
        ("", "read", Unauthorized),
        ("Bearer ", "read", Unauthorized),
        ("Bearer nonsense", "read", Unauthorized),
        (f"Basic {SECRET}boss", "read", Unauthorized),
        (bearer("boss") + "x", "read", Unauthorized),
        (bearer("reader"), "read", None),
        (bearer("reader"), "migrate", Forbidden),
        (bearer("mover"), "migrate", None),
        (bearer("mover"), "admin", Forbidden),
        (bearer("boss"), "admin", None),
        ("bearer " + SECRET + "boss", "admin", None),
        ("", None, None),
    ],
)
def test_roles(who: str, needed: Role | None, refusal: type[Exception] | None) -> None:
    caller = Caller("192.0.2.1", who)
    if refusal is None:
        doors().allow(caller, needed)
    else:
        with pytest.raises(refusal) as raised:
            doors().allow(caller, needed)
        assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("method", "path", "enough"),
    [
        ("GET", "/v1.0/containers", "reader"),
        ("GET", "/metrics", "reader"),
        ("GET", "/v1.0/events", "reader"),
        ("POST", "/v1.0/plan", "reader"),
        ("POST", "/migrate", "mover"),
        ("DELETE", "/v1.0/migrations/m1", "mover"),
        ("POST", "/v1.0/containers", "boss"),
        ("DELETE", "/v1.0/containers/web", "boss"),
        ("PUT", "/v1.0/topology", "boss"),
        ("POST", "/v1.0/cleanup", "boss"),
        ("POST", "/v1.0/containers/web/start", "boss"),
        ("POST", "/v1.0/nodes/a/take-over", "boss"),
    ],
)
def test_every_call_wants_its_role_and_changes_nothing_without(method: str, path: str, enough: str) -> None:
    order = ["", "reader", "mover", "boss"]
    for name in order[: order.index(enough)]:
        headers = {"Authorization": bearer(name)} if name else {}
        response, services = ask(method, path, b"{}" if method in ("POST", "PUT") else None, doors(), **headers)
        assert (response.status_int, response.json["cause"]) == ((403, "forbidden") if name else (401, "unauthorized"))
        assert name or response.headers["WWW-Authenticate"].startswith("Bearer")
        assert services.asked == []
    response, _ = ask(method, path, b"{}", doors(), Authorization=bearer(enough))
    assert response.status_int not in (401, 403)


def test_health_is_open_and_its_reasons_are_not() -> None:
    response, _ = ask("GET", "/healthz", None, doors())
    assert (response.status_int, response.json["problems"]) == (200, [])
    response, _ = ask("GET", "/healthz", None, doors(), Authorization=bearer("reader"))
    assert "secret-name" in response.text


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:81", "https://127.0.0.1.evil.example"]
)
def test_a_page_of_somebody_else_gets_nothing(origin: str) -> None:
    body = b'{"container": "web", "to": "b"}'
    response, services = ask("POST", "/migrate", body, Origin=origin)
    assert (response.status_int, response.json["cause"], services.asked) == (403, "cross_origin", [])


def test_our_own_page_may_ask() -> None:
    response, _ = ask("GET", "/v1.0/containers", Origin="http://localhost:80", Host="localhost:80")
    assert response.status_int == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example:8080", 403), ("localhost:8080", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200), ("[", 403)],
)
def test_without_tokens_a_name_is_not_answered_to(host: str, status: int) -> None:
    """DNS can point a name of anybody's at loopback."""
    response, _ = ask("GET", "/v1.0/containers", Host=host)
    assert response.status_int == status


def test_rates_are_each_caller_s_own_and_recover() -> None:
    now = [0.0]
    some = Doors(rate=2.0, burst=3, clock=lambda: now[0])
    one, other = Caller("192.0.2.1", host="127.0.0.1"), Caller("192.0.2.2", host="127.0.0.1")
    for _ in range(3):
        some.admit(one)
    with pytest.raises(TooManyRequests) as refusal:
        some.admit(one)
    assert refusal.value.headers == {"Retry-After": "1"}
    some.admit(other)
    now[0] += 0.5
    some.admit(one)
    with pytest.raises(TooManyRequests):
        some.admit(one)


def test_the_addresses_of_one_ipv6_network_have_one_rate() -> None:
    some = Doors(rate=1.0, burst=3, clock=lambda: 0.0)
    for number in range(3):
        some.admit(Caller(f"2001:db8::{number + 1:x}", host="127.0.0.1"))
    with pytest.raises(TooManyRequests):
        some.admit(Caller("2001:db8::ffff", host="127.0.0.1"))
    some.admit(Caller("2001:db8:1::1", host="127.0.0.1"))


def test_callers_do_not_pile_up() -> None:
    now = [0.0]
    some = Doors(rate=1.0, burst=1, clock=lambda: now[0])
    for number in range(10_000):
        now[0] += 0.01
        some.admit(Caller(f"address {number}", host="127.0.0.1"))
    assert len(some._buckets) <= 4097


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "controller.example.net"])
def test_an_open_door_keeps_the_controller_from_starting(host: str) -> None:
    with pytest.raises(OpenDoor, match="for everybody: set \\[coat\\] tokens"):
        refuse_open_door(host, Tls(), has_tokens=False)
    refuse_open_door(host, Tls(), has_tokens=True)
    refuse_open_door(host, Tls("cert", "key", "ca"), has_tokens=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_lock(host: str) -> None:
    refuse_open_door(host, Tls(), has_tokens=False)


@pytest.mark.parametrize("tls", [Tls("cert"), Tls(key="key"), Tls(client_ca="ca"), Tls("/no/cert", "/no/key")])
def test_half_of_a_lock_is_none(tls: Tls) -> None:
    with pytest.raises(OpenDoor):
        tls.context()


# ---- certificates


ALICE, BOB, NODE = (Caller("192.0.2.9", names=(name,)) for name in ("alice", "bob", "edge1"))
CLIENTS: dict[str, Role] = {"alice": "admin", "bob": "read"}


def test_a_certificate_may_what_its_name_may_and_no_other_opens_anything() -> None:
    some = Doors(None, guarded=True, clients=CLIENTS)
    assert [some.role_of(one) for one in (ALICE, BOB, NODE)] == ["admin", "read", None]
    some.admit(ALICE)
    some.allow(ALICE, "admin")
    some.allow(BOB, "read")
    with pytest.raises(Forbidden, match="certificate of bob may read; this needs migrate"):
        some.allow(BOB, "migrate")
    for stranger in (NODE, Caller("192.0.2.9")):
        with pytest.raises(Forbidden) as refusal:
            some.admit(stranger)
        assert refusal.value.cause == "unknown_certificate"


def test_of_a_certificate_and_a_token_the_lesser_counts() -> None:
    some = Doors(doors().tokens, clients=CLIENTS)
    for name, token, least in (("alice", "boss", "admin"), ("alice", "reader", "read"), ("bob", "boss", "read")):
        assert some.role_of(Caller("192.0.2.9", bearer(token), names=(name,))) == least
    with pytest.raises(Forbidden, match="the certificate of bob"):
        some.allow(Caller("192.0.2.9", bearer("boss"), names=("bob",)), "admin")
    with pytest.raises(Forbidden, match="the token reader"):
        some.allow(Caller("192.0.2.9", bearer("reader"), names=("alice",)), "admin")
    with pytest.raises(Unauthorized):
        some.allow(ALICE, "read")


@pytest.mark.parametrize(
    ("roles", "has_tokens", "has_authority", "said"),
    [
        ({}, False, True, "say whose certificates may do what"),
        ({"alice": "admin"}, False, False, "needs tls_client_ca"),
        ({"alice": "root"}, True, True, "alice:root"),
        ({"": "admin"}, True, True, ":admin"),
    ],
)
def test_certificates_that_say_nothing_are_no_lock(
    roles: dict[str, str], has_tokens: bool, has_authority: bool, said: str
) -> None:
    with pytest.raises(BadClients, match=said):
        parse_clients(roles, has_tokens, has_authority)
    assert parse_clients({}, True, has_authority) is None
