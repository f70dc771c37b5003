"""REST: one table of routes, one place where errors become JSON.

Ryu's own dispatch answers a wrong method with 404 and an exception with a traceback, so a single catch-all route of its
WSGI application hands every request to ``Front``, which looks it up in ``ROUTES``.
"""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel
from webob import Request, Response

from coat_ryu import openapi
from coat_ryu.config import CleanupRequest, MigrateRequest, parse_body
from coat_ryu.errors import CoatError, InputError, NotFound
from coat_ryu.model import ContainerSpec
from coat_ryu.saga import Migration

LOG = logging.getLogger(__name__)

Thing = dict[str, Any]

BODY_LIMIT = 1 << 20
"""Largest request body in bytes; the largest sensible one is a container with a long command and environment."""


class Services(Protocol):
    """What the controller can do, as far as REST knows. Every method may raise CoatError."""

    def migrate(self, request: MigrateRequest) -> Migration: ...
    def wait_for(self, migration: Migration) -> Migration: ...
    def abort(self, identifier: str) -> Migration: ...
    def migration(self, identifier: str) -> Migration: ...
    def migrations(self) -> list[Migration]: ...
    def create_container(self, spec: ContainerSpec) -> dict[str, Any]: ...
    def remove_container(self, name: str) -> None: ...
    def container(self, name: str) -> dict[str, Any]: ...
    def containers(self) -> list[dict[str, Any]]: ...
    def cleanup(self, request: CleanupRequest) -> dict[str, Any]: ...
    def nodes(self) -> list[dict[str, Any]]: ...
    def topology(self) -> dict[str, Any]: ...
    def bindings(self) -> list[dict[str, Any]]: ...
    def flows(self, dpid: str) -> list[dict[str, Any]]: ...
    def health(self) -> dict[str, Any]: ...
    def metrics(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Services, Request, dict[str, str]], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """``path`` holds ``{name}`` where one segment varies; ``answer`` is the type of what comes with ``status``."""

    method: str
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    answer: Any = Thing
    status: int = 200

    def match(self, path: str) -> dict[str, str] | None:
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path), path)
        return found.groupdict() if found else None


def _post_migrate(services: Services, request: Request, _: dict[str, str]) -> Answer:
    wanted = parse_body(MigrateRequest, _body(request))
    migration = services.migrate(wanted)
    status = 202
    if wanted.wait:
        migration = services.wait_for(migration)
        status = 200
    return Answer(status, migration.model_dump(), {"Location": f"/v1.0/migrations/{migration.id}"})


def _delete_migration(services: Services, _: Request, path: dict[str, str]) -> Answer:
    return Answer(202, services.abort(path["id"]).model_dump())


def _get_migrations(services: Services, *_: Any) -> Answer:
    return Answer(200, [migration.model_dump() for migration in services.migrations()])


def _post_container(services: Services, request: Request, _: dict[str, str]) -> Answer:
    created = services.create_container(parse_body(ContainerSpec, _body(request)))
    return Answer(201, created, {"Location": f"/v1.0/containers/{created['name']}"})


def _post_cleanup(services: Services, request: Request, _: dict[str, str]) -> Answer:
    return Answer(200, services.cleanup(parse_body(CleanupRequest, _body(request) or b"{}")))


def _delete_container(services: Services, _: Request, path: dict[str, str]) -> Answer:
    services.remove_container(path["name"])
    return Answer(204)


def _get_openapi(*_: Any) -> Answer:
    return Answer(200, openapi.document(ROUTES))


ROUTES = (
    Route("POST", "/migrate", _post_migrate, "Move a container", MigrateRequest, Migration, 202),
    Route("GET", "/v1.0/migrations", _get_migrations, "All migrations, the newest first", answer=list[Migration]),
    Route(
        "GET",
        "/v1.0/migrations/{id}",
        lambda s, _, path: Answer(200, s.migration(path["id"]).model_dump()),
        "One migration",
        answer=Migration,
    ),
    Route("DELETE", "/v1.0/migrations/{id}", _delete_migration, "Abort before the pivot", answer=Migration, status=202),
    Route("GET", "/v1.0/nodes", lambda s, *_: Answer(200, s.nodes()), "Nodes as they are", answer=list[Thing]),
    Route("GET", "/v1.0/topology", lambda s, *_: Answer(200, s.topology()), "The overlay as it is"),
    Route("GET", "/v1.0/bindings", lambda s, *_: Answer(200, s.bindings()), "Addresses and places", answer=list[Thing]),
    Route(
        "GET",
        "/v1.0/flows/{dpid}",
        lambda s, _, path: Answer(200, s.flows(path["dpid"])),
        "A switch's flows, read from it now",
        answer=list[Thing],
    ),
    Route("GET", "/v1.0/containers", lambda s, *_: Answer(200, s.containers()), "Containers", answer=list[Thing]),
    Route("POST", "/v1.0/containers", _post_container, "Create and run a container", ContainerSpec, status=201),
    Route("GET", "/v1.0/containers/{name}", lambda s, _, path: Answer(200, s.container(path["name"])), "One container"),
    Route("DELETE", "/v1.0/containers/{name}", _delete_container, "Remove a container", answer=None, status=204),
    Route("POST", "/v1.0/cleanup", _post_cleanup, "Find residue, and remove it", CleanupRequest),
    Route("GET", "/healthz", lambda s, *_: Answer(200, s.health()), "Whether the controller is well"),
    Route(
        "GET",
        "/metrics",
        lambda s, *_: Answer(200, s.metrics(), {"Content-Type": "text/plain; version=0.0.4"}),
        "Prometheus metrics",
        answer=str,
    ),
    Route("GET", "/openapi.json", _get_openapi, "This API, as OpenAPI 3.1"),
)


class MethodNotAllowed(CoatError):
    default_cause = "method_not_allowed"
    response = 405


class BodyTooLarge(CoatError):
    default_cause = "body_too_large"
    response = 413


def dispatch(services: Services, request: Request) -> Response:
    """The answer to a request, whatever happens."""
    headers: dict[str, str] = {}
    try:
        answer = _find(request, headers).handler(services, request, request.urlvars)
    except CoatError as error:
        answer = Answer(error.response, error.as_json(), headers)
    except Exception:
        LOG.exception("%s %s failed", request.method, request.path)
        message = "the controller failed to answer; its log has the reason"
        answer = Answer(500, {"cause": "internal", "message": message, "response": 500})
    return _respond(answer)


def _find(request: Request, headers: dict[str, str]) -> Route:
    """The route of a request; ``request.urlvars`` gets what varies in its path. Fills ``headers`` for the refusal."""
    allowed = []
    for route in ROUTES:
        path = route.match(request.path_info)
        if path is None:
            continue
        if route.method == request.method:
            request.urlvars = path
            return route
        allowed.append(route.method)
    if allowed:
        headers["Allow"] = ", ".join(sorted(allowed))
        raise MethodNotAllowed(f"{request.path_info} takes {headers['Allow']}, not {request.method}")
    raise NotFound(f"there is nothing at {request.path_info}", cause="no_such_path")


def _body(request: Request) -> bytes:
    if request.content_length is None and request.headers.get("Transfer-Encoding"):
        raise InputError("the body must come with a Content-Length", cause="length_required")
    if (request.content_length or 0) > BODY_LIMIT:
        raise BodyTooLarge(f"the body has {request.content_length} bytes; at most {BODY_LIMIT} are taken")
    return request.body


class _Response(Response):  # type: ignore[misc]
    def _abs_headerlist(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """webob makes Location absolute, with a host that a relay or a tunnel in front of us has never heard of.

        A path alone is right since RFC 7231 (now RFC 9110, section 10.2.2).
        """
        return list(self.headerlist)


def _respond(answer: Answer) -> Response:
    response = _Response(status=answer.status)
    if isinstance(answer.body, bytes):
        response.body = answer.body
    elif answer.body is not None:
        response.content_type, response.charset = "application/json", None
        response.body = json.dumps(answer.body, default=str).encode() + b"\n"
    else:
        del response.content_type
    response.headers.update(answer.headers)
    return response


class Front:
    """The one controller that Ryu's WSGI application knows of."""

    def __init__(self, request: Request, link: Any, data: Services, **config: Any) -> None:
        self._services = data

    def __call__(self, request: Request) -> Response:
        return dispatch(self._services, request)


def mount(wsgi: Any, services: Services) -> None:
    """Makes ``services`` answer every request of a Ryu ``WSGIApplication`` that no other application has claimed."""
    wsgi.registory[Front.__name__] = services  # Ryu's spelling
    wsgi.mapper.connect("coat", "/{path:.*}", controller=Front)
