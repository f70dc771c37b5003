"""REST: one table of routes, one place where errors become JSON.

Ryu's own dispatch answers a wrong method with 404 and an exception with a traceback, so a single catch-all route of its
WSGI application hands every request to ``Front``, which looks it up in ``ROUTES``.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from webob import Request, Response

from coat_ryu import handlers, openapi, shapes, static, streams
from coat_ryu.answers import EVENT_STREAM, JSON, Answer, Asked, Route, respond, unless_known
from coat_ryu.config import (
    CleanupRequest,
    ContainersQuery,
    EventsQuery,
    MigrateRequest,
    MigrationsQuery,
    PageQuery,
    PlanRequest,
    TopologyQuery,
    parse_query,
)
from coat_ryu.doors import Caller, Doors
from coat_ryu.errors import CoatError, NotFound
from coat_ryu.handlers import BODY_LIMIT as BODY_LIMIT
from coat_ryu.handlers import BodyTooLarge, Services, SlowBody, shake_off
from coat_ryu.model import ContainerSpec
from coat_ryu.plans import Plan
from coat_ryu.saga import Migration
from coat_ryu.tls import NAMES

LOG = logging.getLogger(__name__)


@functools.cache
def _document() -> dict[str, Any]:
    """Made once: it takes 30 ms of the event loop."""
    return openapi.document(ROUTES)


def _get_openapi(*_: Any) -> Answer:
    return Answer(200, _document())


NODE = (502, 503, 504)
"""What comes of a node that fails, is away, or does not answer in time."""

ROUTES = (
    Route(
        "POST",
        "/migrate",
        handlers.post_migrate,
        "Move a container",
        {200: Migration, 202: Migration},
        (404, 409, *NODE),
        body=MigrateRequest,
        headers=("Idempotency-Key",),
        role="migrate",
    ),
    Route(
        "POST",
        "/v1.0/plan",
        handlers.post_plan,
        "What moving a container would come to",
        {200: Plan},
        (404, *NODE),
        PlanRequest,
    ),
    Route(
        "GET",
        "/v1.0/migrations",
        handlers.get_migrations,
        "Migrations, the newest first",
        {200: list[Migration]},
        (503,),
        query=MigrationsQuery,
    ),
    Route("GET", "/v1.0/migrations/{id}", handlers.get_migration, "One migration", {200: Migration}, (404, 503)),
    Route(
        "DELETE",
        "/v1.0/migrations/{id}",
        handlers.delete_migration,
        "Abort before the pivot",
        {202: Migration},
        (404, 409, 503),
        role="migrate",
    ),
    Route(
        "GET",
        "/v1.0/nodes",
        handlers.listed("nodes"),
        "Nodes as they are",
        {200: list[shapes.NodeStatus]},
        query=PageQuery,
    ),
    Route("GET", "/v1.0/topology", handlers.get_topology, "The overlay as it is", {200: shapes.TopologyStatus}),
    Route(
        "PUT",
        "/v1.0/topology",
        handlers.put_topology,
        "Change the topology, in YAML or JSON",
        {200: shapes.TopologyChange},
        (409, 412, 503),
        body=shapes.TopologyText,
        query=TopologyQuery,
        headers=("If-Match",),
        role="admin",
    ),
    Route(
        "GET",
        "/v1.0/bindings",
        handlers.listed("bindings"),
        "Addresses and places",
        {200: list[shapes.BindingStatus]},
        query=PageQuery,
    ),
    Route(
        "GET",
        "/v1.0/flows/{dpid}",
        handlers.get_flows,
        "A switch's flows, read from it now",
        {200: list[dict[str, Any]]},
        (404, *NODE),
        query=PageQuery,
    ),
    Route(
        "GET",
        "/v1.0/containers",
        handlers.get_containers,
        "Containers",
        {200: list[shapes.ContainerStatus]},
        NODE,
        query=ContainersQuery,
    ),
    Route(
        "POST",
        "/v1.0/containers",
        handlers.post_container,
        "Create and run a container",
        {201: shapes.ContainerStatus},
        (404, 409, *NODE),
        ContainerSpec,
        role="admin",
    ),
    Route(
        "GET",
        "/v1.0/containers/{name}",
        handlers.get_container,
        "One container",
        {200: shapes.ContainerStatus},
        (404, *NODE),
    ),
    Route(
        "DELETE",
        "/v1.0/containers/{name}",
        handlers.delete_container,
        "Remove a container",
        {204: None},
        (404, 409, 412, *NODE),
        headers=("If-Match",),
        role="admin",
    ),
    Route(
        "POST",
        "/v1.0/containers/{name}/start",
        handlers.post_start,
        "Start a declared container, though not every node could be asked",
        {200: shapes.ContainerStatus},
        (404, 409, *NODE),
        role="admin",
    ),
    Route(
        "POST",
        "/v1.0/nodes/{name}/take-over",
        handlers.post_take_over,
        "Take a node over from another controller",
        {200: shapes.TakenOver},
        (404, 409, *NODE),
        role="admin",
    ),
    Route(
        "POST",
        "/v1.0/cleanup",
        handlers.post_cleanup,
        "Find residue, and remove it",
        {200: shapes.Cleanup},
        NODE,
        CleanupRequest,
        body_required=False,
        role="admin",
    ),
    Route(
        "GET",
        "/v1.0/events",
        handlers.get_events,
        "What happens, as it happens",
        {200: str},
        (410, 503),
        query=EventsQuery,
        headers=("Last-Event-ID",),
        kind=EVENT_STREAM,
    ),
    Route(
        "GET",
        "/healthz",
        handlers.get_health,
        "Whether the controller is well",
        {200: shapes.Health},
        (503,),
        role=None,
    ),
    Route("GET", "/metrics", handlers.get_metrics, "Prometheus metrics", {200: str}, kind="text/plain"),
    Route("GET", "/openapi.json", _get_openapi, "This API, as OpenAPI 3.1", {200: dict[str, Any]}, role=None),
    # Open to everybody: a browser that is sent to an address brings no token, and the page asks for one.
    Route("GET", "/ui", static.get_page, "A page for people", {200: str}, role=None, kind="text/html"),
    Route("GET", "/ui/{file}", static.get_file, "What the page is made of", {200: str}, (404,), role=None, kind="*/*"),
)


class MethodNotAllowed(CoatError):
    default_cause = "method_not_allowed"
    response = 405


OPEN = Doors()


def answer(services: Services, request: Request, doors: Doors = OPEN) -> Answer:
    """The answer to a request, whatever happens."""
    headers: dict[str, str] = {}
    try:
        caller = _caller(request)
        doors.admit(caller)
        route, path = _find(request, headers)
        doors.allow(caller, route.role)
        query = parse_query(route.query, request.GET.items())
        who = doors.name_of(caller)
        is_current = request.environ.get("coat.is_current", lambda: True)
        asked = Asked(
            request, path, query, doors.role_of(caller), who, lambda: is_current() and doors.may(caller, route.role)
        )
        with _noted(route, request, who) as note:
            found = note(route.handler(services, asked))
        return unless_known(asked, found) if route.method == "GET" and route.kind == JSON else found
    except CoatError as error:
        if isinstance(error, (SlowBody, BodyTooLarge)):
            shake_off(request)
        return Answer(error.response, error.as_json(), {**headers, **error.headers})
    except Exception:
        LOG.exception("%s %s failed", request.method, request.path)
        message = "the controller failed to answer; its log has the reason"
        return Answer(500, {"cause": "internal", "message": message, "response": 500})


@contextlib.contextmanager
def _noted(route: Route, request: Request, who: str) -> Iterator[Callable[[Answer], Answer]]:
    """Who has changed something, or tried to, is in the log: once, with what came of it."""
    come = "failed"

    def note(answer: Answer) -> Answer:
        nonlocal come
        come = " ".join([str(answer.status), answer.headers.get("Location", "")]).rstrip()
        return answer

    try:
        yield note
    except CoatError as error:
        come = f"{error.response} {error.cause}"
        raise
    finally:
        if route.role in ("migrate", "admin"):
            LOG.info("%s: %s %s: %s", _printable(who), request.method, request.path, come)


def _printable(text: str) -> str:
    return text.encode("unicode_escape").decode()


def dispatch(services: Services, request: Request, doors: Doors = OPEN) -> Response:
    return respond(answer(services, request, doors))


def _caller(request: Request) -> Caller:
    headers = request.headers
    return Caller(
        request.remote_addr or "",
        headers.get("Authorization", ""),
        headers.get("Host", ""),
        headers.get("Origin", ""),
        request.environ.get(NAMES, ()),
    )


def _find(request: Request, headers: dict[str, str]) -> tuple[Route, dict[str, str]]:
    """The route of a request, and what varies in its path. Fills ``headers`` for the refusal."""
    try:
        where = request.path_info
    except UnicodeDecodeError:
        raise NotFound("the path is not UTF-8", cause="no_such_path") from None
    allowed = []
    for route in ROUTES:
        path = route.match(where)
        if path is None:
            continue
        if route.method == request.method:
            return route, path
        allowed.append(route.method)
    if allowed:
        headers["Allow"] = ", ".join(sorted(allowed))
        raise MethodNotAllowed(f"{where} takes {headers['Allow']}, not {request.method}")
    raise NotFound(f"there is nothing at {where}", cause="no_such_path")


class Front:
    """The one controller that Ryu's WSGI application knows of."""

    def __init__(self, request: Request, link: Any, data: tuple[Services, Doors], **config: Any) -> None:
        self._services, self._doors = data

    def __call__(self, request: Request) -> Any:
        found = answer(self._services, request, self._doors)
        if found.events is not None and streams.is_upgrade(request):
            return streams.websocket(request, found.events)
        return respond(found)


def mount(wsgi: Any, services: Services, doors: Doors = OPEN) -> None:
    """Makes ``services`` answer every request of a Ryu ``WSGIApplication`` that no other application has claimed."""
    wsgi.registory[Front.__name__] = (services, doors)  # Ryu's spelling
    wsgi.mapper.connect(
        "coat", r"/{path:[\s\S]*}", controller=Front
    )  # a path may hold a newline, which . does not match
