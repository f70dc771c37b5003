"""What each call of the API does: the request in, the controller asked, an answer out."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ryu.lib import hub
from webob import Request

from coat_ryu import shapes, streams
from coat_ryu.answers import TEXT, Answer, Asked, insist, page
from coat_ryu.config import (
    CleanupRequest,
    ContainersQuery,
    EventsQuery,
    MigrateRequest,
    MigrationsQuery,
    PlanRequest,
    TopologyQuery,
    parse_body,
    parse_query,
)
from coat_ryu.errors import CoatError, InputError
from coat_ryu.feed import Event
from coat_ryu.model import ContainerSpec
from coat_ryu.plans import Plan
from coat_ryu.revision import Changes
from coat_ryu.saga import Migration

BODY_LIMIT = 1 << 20
"""Largest request body in bytes; the largest sensible one is a container with a long command and environment."""
BODY_PATIENCE = 20.0
"""Seconds that a body may take to arrive."""
KEY = re.compile(r"[!-~]{1,128}")


class SlowBody(CoatError):
    default_cause = "slow_body"
    response = 408


class BodyTooLarge(CoatError):
    default_cause = "body_too_large"
    response = 413


class Services(Protocol):
    """What the controller can do, as far as REST knows. Every method may raise CoatError."""

    def migrate(self, request: MigrateRequest, key: str | None = None, who: str | None = None) -> Migration: ...
    def wait_for(self, migration: Migration) -> Migration: ...
    def plan(self, request: PlanRequest) -> Plan: ...
    def abort(self, identifier: str) -> Migration: ...
    def migration(self, identifier: str) -> Migration: ...
    def migrations(self, wanted: MigrationsQuery) -> tuple[list[Migration], int]: ...
    def create_container(self, spec: ContainerSpec) -> dict[str, Any]: ...
    def remove_container(self, name: str) -> None: ...
    def container(self, name: str) -> dict[str, Any]: ...
    def containers(self) -> list[dict[str, Any]]: ...
    def start_container(self, name: str) -> dict[str, Any]: ...
    def take_over(self, name: str) -> dict[str, Any]: ...
    def cleanup(self, request: CleanupRequest) -> dict[str, Any]: ...
    def nodes(self) -> list[dict[str, Any]]: ...
    def topology(self) -> dict[str, Any]: ...
    def replace_topology(self, text: str, dry_run: bool, revision: str | None) -> Changes: ...
    def bindings(self) -> list[dict[str, Any]]: ...
    def flows(self, dpid: str) -> list[dict[str, Any]]: ...
    def events(self, since: int | None) -> Iterator[Event | None]: ...
    def health(self) -> dict[str, Any]: ...
    def metrics(self) -> bytes: ...


def post_migrate(services: Services, asked: Asked) -> Answer:
    wanted = parse_body(MigrateRequest, read_body(asked.request))
    key = asked.header("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise InputError("Idempotency-Key: 1 to 128 visible ASCII characters are wanted")
    migration = services.migrate(wanted, key, asked.who)
    status = 202
    if wanted.wait:
        migration = services.wait_for(migration)
        status = 200
    return Answer(status, migration.model_dump(), {"Location": f"/v1.0/migrations/{migration.id}"})


def post_plan(services: Services, asked: Asked) -> Answer:
    return Answer(200, services.plan(parse_body(PlanRequest, read_body(asked.request))).model_dump())


def get_migrations(services: Services, asked: Asked) -> Answer:
    found, total = services.migrations(asked.checked(MigrationsQuery))
    return page(asked, [migration.model_dump() for migration in found], total)


def get_migration(services: Services, asked: Asked) -> Answer:
    return Answer(200, services.migration(asked.path["id"]).model_dump())


def delete_migration(services: Services, asked: Asked) -> Answer:
    return Answer(202, services.abort(asked.path["id"]).model_dump())


def get_containers(services: Services, asked: Asked) -> Answer:
    wanted = asked.checked(ContainersQuery)
    fitting = [
        one
        for one in services.containers()
        if wanted.node in (None, one["node"]) and wanted.state in (None, one["state"])
    ]
    return page(asked, fitting)


def get_flows(services: Services, asked: Asked) -> Answer:
    return page(asked, services.flows(asked.path["dpid"]))


def post_container(services: Services, asked: Asked) -> Answer:
    created = services.create_container(parse_body(ContainerSpec, read_body(asked.request)))
    return Answer(201, created, {"Location": f"/v1.0/containers/{created['name']}"})


def get_container(services: Services, asked: Asked) -> Answer:
    return Answer(200, services.container(asked.path["name"]))


def delete_container(services: Services, asked: Asked) -> Answer:
    name = asked.path["name"]
    insist(asked, lambda: shapes.tag_of(services.container(name)))
    services.remove_container(name)
    return Answer(204)


def get_topology(services: Services, asked: Asked) -> Answer:
    found = services.topology()
    return Answer(200, found, {"ETag": shapes.topology_tag(found)})


def put_topology(services: Services, asked: Asked) -> Answer:
    query = asked.checked(TopologyQuery)
    try:
        text = read_body(asked.request).decode()
    except UnicodeDecodeError:
        raise InputError("the body is not UTF-8", cause="bad_topology") from None
    now = services.topology()
    if f'"{now["revision"]}-' not in (asked.header("If-Match") or ""):  # only what is replaced must be as it was
        insist(asked, lambda: shapes.topology_tag(now))
    made = services.replace_topology(text, query.dry_run, now["revision"] if asked.header("If-Match") else None)
    revision = services.topology()["revision"]
    return Answer(200, {"revision": revision, "applied": not query.dry_run, "changes": made.model_dump()})


def post_start(services: Services, asked: Asked) -> Answer:
    return Answer(200, services.start_container(asked.path["name"]))


def post_take_over(services: Services, asked: Asked) -> Answer:
    return Answer(200, services.take_over(asked.path["name"]))


def post_cleanup(services: Services, asked: Asked) -> Answer:
    return Answer(200, services.cleanup(parse_body(CleanupRequest, read_body(asked.request, required=False) or b"{}")))


def get_events(services: Services, asked: Asked) -> Answer:
    if streams.is_upgrade(asked.request):
        streams.check_handshake(asked.request)
    since = asked.checked(EventsQuery).since
    last = asked.header("Last-Event-ID")
    if since is None and last is not None:
        since = parse_query(EventsQuery, [("since", last)]).since
    hang_up = asked.request.environ.get("coat.hang_up", lambda: None)
    events = _while(asked.still, services.events(since))
    hang_up()  # when they end, that is the end: nobody is to wait for more
    return Answer(200, events=events)


def _while(allowed: Callable[[], bool], events: Iterator[Event | None]) -> Iterator[Event | None]:
    """A stream outlives its request, but not the right to it."""
    try:
        for event in events:
            if not allowed():
                return
            yield event
    finally:
        events.close()  # type: ignore[attr-defined]


def get_health(services: Services, asked: Asked) -> Answer:
    """Everybody may know whether the controller is well, and those who may read, why it is not."""
    try:
        found = services.health()
    except CoatError as error:
        if asked.role is None:
            raise type(error)(f"{error.cause}: who may read is told why") from None
        raise
    return Answer(200, found if asked.role else {**found, "problems": []})


def get_metrics(services: Services, _: Asked) -> Answer:
    return Answer(200, services.metrics(), {"Content-Type": TEXT})


def listed(name: str) -> Any:
    """A handler that pages what a service's method of that name returns."""
    return lambda services, asked: page(asked, getattr(services, name)())


def read_body(request: Request, required: bool = True) -> bytes:
    if request.content_length is None and (required or request.headers.get("Transfer-Encoding")):
        raise InputError("the body must come with a Content-Length", cause="length_required")
    if (request.content_length or 0) > BODY_LIMIT:
        raise BodyTooLarge(f"the body has {request.content_length} bytes; at most {BODY_LIMIT} are taken")
    slow = SlowBody(f"the body was not there within {BODY_PATIENCE:g} s")
    try:
        with hub.Timeout(BODY_PATIENCE, slow):
            body: bytes = request.body
            return body
    except OSError:  # the connection has gone, or was silent for too long
        raise slow from None


def shake_off(request: Request) -> None:
    """The rest of a body is not waited for."""
    request.environ.get("coat.hang_up", lambda: None)()
