"""Requests in, the contract's error shape out; no Ryu, no network."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from ryu.app.wsgi import WSGIApplication
from webob import Request, Response

from coat_ryu import openapi, rest
from coat_ryu.config import CleanupRequest, MigrateRequest, MigrationsQuery, PlanRequest, parse_topology
from coat_ryu.doors import Doors
from coat_ryu.errors import Conflict, NotFound
from coat_ryu.feed import Event, Feed
from coat_ryu.model import ContainerSpec, Topology
from coat_ryu.plans import Plan
from coat_ryu.revision import Changes, changes
from coat_ryu.saga import Failure, Migration


def a_migration(state: str = "running") -> Migration:
    return Migration(
        id="m1",
        container="web",
        source="a",
        destination="b",
        mode="prepared",
        mac="keep",
        state=state,  # type: ignore[arg-type]
        started_at="2026-01-01T00:00:00Z",
    )


class FakeServices:
    """Answers like a controller with one container, and remembers what it was asked to do."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def migrate(self, request: MigrateRequest, key: str | None = None, who: str | None = None) -> Migration:
        if request.container != "web":
            raise NotFound(f"container: there is no container {request.container!r}", cause="no_such_container")
        self.asked.append(request)
        return a_migration()

    def wait_for(self, migration: Migration) -> Migration:
        return a_migration("succeeded")

    def abort(self, identifier: str) -> Migration:
        raise Conflict("too late", cause="past_pivot")

    def migration(self, identifier: str) -> Migration:
        return a_migration()

    def migrations(self, wanted: MigrationsQuery) -> tuple[list[Migration], int]:
        self.asked.append(wanted)
        return [a_migration()], 3

    def plan(self, request: PlanRequest) -> Plan:
        refusal = Failure(cause="already_there", message="to: it is there already")
        return Plan(
            container=request.container,
            source="a",
            destination=request.to,
            mode=request.mode,
            possible=False,
            refusals=[refusal],
            warnings=[],
            expected=None,
        )

    def replace_topology(self, text: str, dry_run: bool, revision: str | None) -> Changes:
        made = changes(Topology(), parse_topology(text, "the body"))
        self.asked.append((text, dry_run))
        return made

    def events(self, since: int | None) -> Iterator[Event | None]:
        feed = Feed(clock=lambda: 1.0)
        feed.tell("node", node="a", ready=True)
        return feed.follow(1000 if since is None else since, patience=0.01)

    def create_container(self, spec: ContainerSpec) -> dict[str, Any]:
        self.asked.append(spec)
        return {**WEB, "name": spec.name}

    def remove_container(self, name: str) -> None:
        self.asked.append(name)

    def container(self, name: str) -> dict[str, Any]:
        return {**WEB, "name": name}

    def containers(self) -> list[dict[str, Any]]:
        return [{**WEB, "name": name, "node": node} for name, node in (("x", "a"), ("y", "b"), ("z", "a"))]

    def start_container(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        return {**WEB, "name": name}

    def take_over(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        return {"node": name, "before": None}

    def cleanup(self, request: CleanupRequest) -> dict[str, Any]:
        self.asked.append(request)
        return {"found": [], "unreachable": {}}

    def nodes(self) -> list[dict[str, Any]]:
        raise RuntimeError("a secret that no client may read")

    def topology(self) -> dict[str, Any]:
        return {
            "name": "t",
            "revision": "0123456789abcdef",
            "underlay_mtu": 1500,
            "networks": [],
            "ready": True,
            "nodes": {},
            "tunnels": [],
            "partitions": [],
            "repairs": 0,
        }

    def bindings(self) -> list[dict[str, Any]]:
        return []

    def flows(self, dpid: str) -> list[dict[str, Any]]:
        return [{"dpid": dpid}]

    def health(self) -> dict[str, Any]:
        return {"status": "ok", "problems": ["the node secret-name is down"], "nodes": 1}

    def metrics(self) -> bytes:
        return b"coat_x 1\n"


WEB = {
    "name": "web",
    "id": "1",
    "image": "i",
    "node": "a",
    "network": "apps",
    "ip": "192.168.50.7",
    "ip6": None,
    "mac": "02:00:00:00:00:01",
    "state": "running",
    "problem": None,
}


def ask(
    method: str, path: str, body: bytes | None = None, doors: Doors = rest.OPEN, **headers: str
) -> tuple[Response, FakeServices]:
    """``headers`` have _ for -."""
    services = FakeServices()
    request = Request.blank(path, method=method, remote_addr="192.0.2.9")
    request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    if body is not None:
        request.body = body
    return rest.dispatch(services, request, doors), services


GOOD = json.dumps({"container": "web", "to": "b"}).encode()


def test_a_migration_is_accepted_and_says_where_to_look() -> None:
    response, services = ask("POST", "/migrate", GOOD)
    assert (response.status_int, response.headers["Location"]) == (202, "/v1.0/migrations/m1")
    assert response.json["state"] == "running"
    assert [request.mode for request in services.asked] == ["prepared"]


def test_where_to_look_is_a_path() -> None:
    """A relay in front of the controller has another host and port."""
    response, _ = ask("POST", "/migrate", GOOD)
    sent: list[tuple[str, str]] = []
    response(
        {"REQUEST_METHOD": "POST", "wsgi.url_scheme": "http", "HTTP_HOST": "inside:80"},
        lambda status, headers: sent.extend(headers),
    )
    assert dict(sent)["Location"] == "/v1.0/migrations/m1"


def test_with_wait_the_finished_record_comes_back() -> None:
    response, _ = ask("POST", "/migrate", b'{"container": "web", "to": "b", "wait": true}')
    assert (response.status_int, response.json["state"]) == (200, "succeeded")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "cause", "said"),
    [
        ("POST", "/migrate", b"{", 400, "bad_json", "not JSON"),
        ("POST", "/migrate", b"[]", 400, "bad_json", "object"),
        ("POST", "/migrate", b"{}", 400, "bad_input", "container: missing"),
        ("POST", "/migrate", b'{"container": "none", "to": "b"}', 404, "no_such_container", "none"),
        ("POST", "/migrate", b" " * (rest.BODY_LIMIT + 1), 413, "body_too_large", "at most"),
        ("GET", "/migrate", None, 405, "method_not_allowed", "POST"),
        ("DELETE", "/v1.0/nodes", None, 405, "method_not_allowed", "GET"),
        ("GET", "/v1.0/nothing", None, 404, "no_such_path", "/v1.0/nothing"),
        ("GET", "/", None, 404, "no_such_path", "/"),
        ("DELETE", "/v1.0/migrations/m1", None, 409, "past_pivot", "too late"),
        ("GET", "/v1.0/nodes", None, 500, "internal", "log"),
    ],
)
def test_every_error_has_the_contract_s_shape(
    method: str, path: str, body: bytes | None, status: int, cause: str, said: str
) -> None:
    response, services = ask(method, path, body)
    assert response.content_type == "application/json"
    assert set(response.json) == {"cause", "message", "response"}
    assert (response.status_int, response.json["response"], response.json["cause"]) == (status, status, cause)
    assert said in response.json["message"]
    assert services.asked == []


def test_a_wrong_method_is_told_the_right_ones() -> None:
    response, _ = ask("PUT", "/v1.0/containers/web")
    assert response.headers["Allow"] == "DELETE, GET"


def test_an_unforeseen_failure_shows_nothing_of_its_inside() -> None:
    response, _ = ask("GET", "/v1.0/nodes")
    assert b"secret" not in response.body
    assert b"Traceback" not in response.body


def test_what_varies_in_a_path_reaches_the_controller() -> None:
    response, _ = ask("GET", "/v1.0/flows/00000000000000a1")
    assert response.json == [{"dpid": "00000000000000a1"}]
    response, services = ask("DELETE", "/v1.0/containers/web")
    assert (response.status_int, response.body, services.asked) == (204, b"", ["web"])


def test_metrics_are_prometheus_text() -> None:
    response, _ = ask("GET", "/metrics")
    assert response.content_type == "text/plain"
    assert response.body == b"coat_x 1\n"


def test_the_api_describes_itself() -> None:
    response, _ = ask("GET", "/openapi.json")
    document = response.json
    OpenAPIV31SpecValidator(document).validate()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in rest.ROUTES}
    text = response.text
    assert all(f"#/components/schemas/{name}" in text for name in ("MigrateRequest", "Migration", "Failure"))
    wanted = {part.rpartition("/")[2] for part in text.split('"') if part.startswith("#/components/schemas/")}
    assert wanted <= set(document["components"]["schemas"])
    assert document["components"]["schemas"]["MigrateRequest"]["required"] == ["container", "to"]


# ---- lists, tags, keys, events


def test_a_list_comes_whole_or_in_parts() -> None:
    whole, _ = ask("GET", "/v1.0/containers")
    assert [one["name"] for one in whole.json] == ["x", "y", "z"]
    assert (whole.headers["X-Total-Count"], "Link" in whole.headers) == ("3", False)
    part, _ = ask("GET", "/v1.0/containers?limit=1&offset=1")
    assert [one["name"] for one in part.json] == ["y"]
    assert part.headers["Link"] == (
        '</v1.0/containers?limit=1&offset=2>; rel="next", </v1.0/containers?limit=1&offset=0>; rel="prev"'
    )
    assert part.headers["X-Total-Count"] == "3"


def test_the_next_part_of_a_filtered_list_is_filtered_too() -> None:
    response, _ = ask("GET", "/v1.0/containers?limit=1&node=a")
    assert [one["name"] for one in response.json] == ["x"]
    assert response.headers["Link"] == '</v1.0/containers?limit=1&offset=1&node=a>; rel="next"'
    response, services = ask("GET", "/v1.0/migrations?limit=1&offset=2&state=failed&node=b&container=web")
    assert (response.status_int, response.headers["X-Total-Count"]) == (200, "3")
    assert services.asked == [MigrationsQuery(limit=1, offset=2, state="failed", node="b", container="web")]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1.0/migrations?colour=red", "colour: unknown field"),
        ("/v1.0/migrations?state=gone", "state: input should be 'running', 'succeeded'"),
        ("/v1.0/migrations?limit=0", "limit: "),
        ("/v1.0/migrations?limit=x", "limit: "),
        ("/v1.0/migrations?offset=-1", "offset: "),
        ("/v1.0/migrations?node=a&node=b", "node: given twice"),
        ("/v1.0/containers?state=dead", "state: "),
        ("/v1.0/topology?x=1", "x: unknown field"),
        ("/healthz?x=1", "x: unknown field"),
        ("/v1.0/events?since=yesterday", "since: "),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_with_its_name(path: str, said: str) -> None:
    response, services = ask("GET", path)
    assert (response.status_int, response.json["cause"], services.asked) == (400, "bad_input", [])
    assert said in response.json["message"]


def test_what_is_known_is_not_sent_again() -> None:
    first, _ = ask("GET", "/v1.0/containers/web")
    tag = first.headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again, _ = ask("GET", "/v1.0/containers/web", If_None_Match=known)
        assert (again.status_int, again.body, again.headers["ETag"]) == (304, b"", tag)
    other, _ = ask("GET", "/v1.0/containers/db", If_None_Match=tag)
    assert other.status_int == 200


def test_what_has_changed_is_not_removed() -> None:
    tag = ask("GET", "/v1.0/containers/web")[0].headers["ETag"]
    response, services = ask("DELETE", "/v1.0/containers/web", If_Match='"other"')
    assert (response.status_int, response.json["cause"], services.asked) == (412, "precondition_failed", [])
    response, services = ask("DELETE", "/v1.0/containers/web", If_Match=tag)
    assert (response.status_int, services.asked) == (204, ["web"])


TOPOLOGY = b"nodes: [{name: a, address: 10.0.0.1}]\nnetworks: [{name: n, vni: 1, subnet: 10.1.0.0/24}]"


def test_a_topology_is_replaced_if_it_is_as_it_was_whatever_the_switches_do() -> None:
    tag = ask("GET", "/v1.0/topology")[0].headers["ETag"]
    assert tag.startswith('"0123456789abcdef-')
    for good in (tag, '"0123456789abcdef-of-a-moment-ago"', "*"):
        response, services = ask("PUT", "/v1.0/topology", TOPOLOGY, If_Match=good)
        assert response.status_int == 200, response.text
        assert services.asked == [(TOPOLOGY.decode(), False)]
        assert response.json["changes"]["nodes_added"] == ["a"]
    response, services = ask("PUT", "/v1.0/topology", TOPOLOGY, If_Match='"fedcba9876543210-x"')
    assert (response.status_int, services.asked) == (412, [])


def test_a_topology_that_is_none_is_refused() -> None:
    for body in (b"\xff", b"nodes: [", b"[]", b""):
        response, services = ask("PUT", "/v1.0/topology", body)
        assert (response.status_int, response.json["cause"], services.asked) == (400, "bad_topology", [])


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 129])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    response, services = ask("POST", "/migrate", GOOD, Idempotency_Key=key)
    assert (response.status_int, response.json["cause"], services.asked) == (400, "bad_input", [])


def test_a_plan_has_reasons() -> None:
    response, _ = ask("POST", "/v1.0/plan", GOOD)
    assert (response.json["possible"], response.json["expected"]) == (False, None)
    assert response.json["refusals"] == [{"cause": "already_there", "message": "to: it is there already"}]


@pytest.mark.parametrize("how", [{}, {"Last_Event_ID": "1000"}])
def test_events_are_server_sent(how: dict[str, str]) -> None:
    response, _ = ask("GET", "/v1.0/events", None, rest.OPEN, **how)
    assert response.content_type == "text/event-stream"
    parts = iter(response.app_iter)
    assert next(parts).startswith(b":")
    number, kind, data = next(parts).decode().splitlines()[:3]
    assert (number, kind) == ("id: 1001", "event: node")
    assert json.loads(data.removeprefix("data: "))["node"] == "a"
    assert next(parts) == b":\n\n"


def test_every_status_that_is_answered_is_in_the_document() -> None:
    document = openapi.document(rest.ROUTES)
    post = document["paths"]["/migrate"]["post"]
    assert {
        "200",
        "202",
        "400",
        "401",
        "403",
        "404",
        "408",
        "409",
        "413",
        "414",
        "429",
        "431",
        "500",
        "502",
        "503",
        "504",
    } == set(post["responses"])
    assert document["paths"]["/v1.0/cleanup"]["post"]["requestBody"]["required"] is False
    assert "304" in document["paths"]["/v1.0/nodes"]["get"]["responses"]
    names = {one["name"] for one in document["paths"]["/v1.0/migrations"]["get"]["parameters"]}
    assert names == {"limit", "offset", "state", "container", "node", "If-None-Match"}


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "wants Connection: Upgrade"),
        ({"Connection": "Upgrade"}, "a Sec-WebSocket-Key"),
        ({"Connection": "Upgrade", "Sec_WebSocket_Key": "x", "Sec_WebSocket_Version": "8"}, "13 is wanted"),
        ({"Connection": "Upgrade", "Sec_WebSocket_Key1": "x"}, "a Sec-WebSocket-Key"),
    ],
)
def test_an_upgrade_that_is_none_is_refused_in_words(headers: dict[str, str], said: str) -> None:
    response, _ = ask("GET", "/v1.0/events", None, rest.OPEN, Upgrade="websocket", **headers)
    assert (response.status_int, response.json["cause"]) == (400, "bad_input")
    assert said in response.json["message"]


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1.0/a%0Ab", "/%0A", "//", "/v1.0/migrations/%0A%F2%8B", "/%ff"])
def test_every_path_comes_to_us_through_ryu(path: str) -> None:
    """Ryu answers what no route of its mapper takes with a page of HTML."""
    application = WSGIApplication()
    rest.mount(application, FakeServices())
    response = Request.blank(path, method="PUT").get_response(application)
    assert response.content_type == "application/json"
    assert response.json["response"] == response.status_int
    assert response.status_int in (404, 405)
