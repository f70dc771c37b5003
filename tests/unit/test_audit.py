"""Who has asked for a change is known afterwards, and who may no longer look sees nothing more."""

import logging
import threading
import time

import pytest
from webob import Request

from coat_ryu import rest
from coat_ryu.answers import Asked
from coat_ryu.config import EventsQuery, MigrateRequest
from coat_ryu.doors import Caller, parse_tokens
from coat_ryu.feed import Feed
from coat_ryu.handlers import get_events
from coat_ryu.tls import NAMES
from tests.unit.migrating import Controller
from tests.unit.test_doors import LINES, bearer, doors
from tests.unit.test_rest import GOOD, FakeServices, ask


@pytest.mark.parametrize(
    ("method", "path", "body", "who", "said"),
    [
        ("POST", "/migrate", GOOD, "mover", "token mover: POST /migrate: 202 /v1.0/migrations/m1"),
        ("DELETE", "/v1.0/containers/web", None, "boss", "token boss: DELETE /v1.0/containers/web: 204"),
        ("DELETE", "/v1.0/migrations/m1", None, "mover", "token mover: DELETE /v1.0/migrations/m1: 409 past_pivot"),
        ("POST", "/v1.0/containers", b"{", "boss", "token boss: POST /v1.0/containers: 400 bad_json"),
        ("PUT", "/v1.0/topology", b"[", "boss", "token boss: PUT /v1.0/topology: 400 bad_topology"),
    ],
)
def test_every_change_is_logged_with_its_author(
    method: str, path: str, body: bytes | None, who: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "coat_ryu.rest"):
        ask(method, path, body, doors(), Authorization=bearer(who))
    assert [record.getMessage() for record in caplog.records] == [said]


def test_a_look_is_not_logged_and_no_path_breaks_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "coat_ryu.rest"):
        ask("GET", "/v1.0/containers", None, doors(), Authorization=bearer("boss"))
        assert caplog.records == []
        ask("DELETE", "/v1.0/containers/a%0Atoken%20boss", None, doors(), Authorization=bearer("boss"))
    assert [len(record.getMessage().splitlines()) for record in caplog.records] == [1]


def test_without_tokens_the_address_is_the_author(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "coat_ryu.rest"):
        ask("POST", "/migrate", GOOD)
    assert caplog.records[0].getMessage().startswith("address 192.0.2.9: ")


def test_a_certificate_is_named_and_breaks_no_line(caplog: pytest.LogCaptureFixture) -> None:
    request = Request.blank("/v1.0/containers/web", method="DELETE", remote_addr="192.0.2.9")
    request.headers["Authorization"] = bearer("boss")
    request.environ[NAMES] = ("alice\ntoken boss", "other")
    with caplog.at_level(logging.INFO, "coat_ryu.rest"):
        rest.dispatch(FakeServices(), request, doors())
    said = caplog.records[0].getMessage()
    assert said == "token boss, certificate alice\\ntoken boss: DELETE /v1.0/containers/web: 204"


def test_a_record_says_who_asked_also_after_a_restart(controller: Controller) -> None:
    move = controller.migrator.migrate(MigrateRequest(container="web", to="b"), None, "token alice")
    assert controller.migrator.wait(move).requested_by == "token alice"
    (kept,) = controller.journal.migrations()
    assert kept.requested_by == "token alice"


def test_a_token_that_is_taken_away_ends_its_streams_at_once() -> None:
    locks, feed, caller = doors(), Feed(clock=lambda: 1.0), Caller("192.0.2.1", bearer("reader"))

    class Services(FakeServices):
        def events(self, since: int | None):
            return feed.follow(since, patience=30)

    asked = Asked(
        Request.blank("/v1.0/events"), {}, EventsQuery(), "read", "token reader", lambda: locks.may(caller, "read")
    )
    events = get_events(Services(), asked).events
    assert events is not None
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.extend(events))
    reader.start()
    while not feed.readers:
        time.sleep(0.01)
    feed.tell("node", node="a", ready=True)
    while not seen:
        time.sleep(0.01)
    locks.tokens = parse_tokens("\n".join(LINES.splitlines()[1:]), "tokens")
    feed.nudge()
    reader.join(5)
    assert not reader.is_alive() and len(seen) == 1 and feed.readers == 0
