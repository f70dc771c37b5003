"""The API as an OpenAPI 3.1 document, made from the table of routes and from the models that check the requests.

https://spec.openapis.org/oas/v3.1.0; schemas are JSON Schema 2020-12, as pydantic writes them.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel, TypeAdapter

from coat_ryu.answers import JSON, Route
from coat_ryu.config import PageQuery

SCHEMAS = "#/components/schemas/"

HEADERS = {
    "Idempotency-Key": "The caller's name for this very request: sent again, it begins nothing new.",
    "If-Match": "The ETag that was seen; refused with 412 when it is not as it was.",
    "If-None-Match": "The ETag that is known; 304 when nothing has changed.",
    "Last-Event-ID": "As since.",
}
EVERYWHERE = (400, 403, 414, 429, 431, 500)
"""What any call may be refused with: its query, a foreign page or the role, its length and rate; a fault of ours."""
WITH_BODY = (408, 413)


class Failure(BaseModel):
    """What every refusal looks like."""

    cause: str
    message: str
    response: int


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document, ready for JSON."""
    schemas: dict[str, Any] = {}
    failure = _content(JSON, _schema(Failure, schemas))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, failure)
    return {
        "openapi": "3.1.0",
        "info": {"title": "coat_ryu", "version": _version(), "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, schemas: dict[str, Any], failure: dict[str, Any]) -> dict[str, Any]:
    answers = {str(status): _answer(route, status, kind, schemas) for status, kind in route.answers.items()}
    if route.method == "GET" and 200 in route.answers and route.kind == JSON:
        answers["304"] = {"description": "As it was under the ETag of If-None-Match"}
    refusals = {*EVERYWHERE, *route.refusals}
    if route.role is not None:
        refusals.add(401)
    if route.body is not None:
        refusals |= {*WITH_BODY}
    for status in sorted(refusals):
        answers.setdefault(str(status), {"description": HTTPStatus(status).phrase, **failure})
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-z]+', '_', route.path)}".rstrip("_"),
        "parameters": [*_in_path(route), *_in_query(route), *_in_headers(route)],
        "responses": answers,
        "security": [{"token": []}, {}] if route.role else [{}],
    }
    if route.role is not None:
        operation["description"] = f"Needs the role {route.role}, where tokens are in force."
    if route.body is not None:
        content = _content(JSON, _schema(route.body, schemas))
        operation["requestBody"] = {"required": route.body_required, **content}
    return operation


def _answer(route: Route, status: int, kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": f"{route.summary}: {HTTPStatus(status).phrase}"}
    if kind is not None:
        good |= _content(route.kind, {"type": "string"} if kind is str else _schema(kind, schemas))
    if issubclass(route.query, PageQuery):
        good["headers"] = {
            "X-Total-Count": {"description": "How many there are in all", "schema": {"type": "integer"}},
            "Link": {"description": "The next and the previous part (RFC 8288)", "schema": {"type": "string"}},
        }
    return good


def _in_path(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _in_query(route: Route) -> list[dict[str, Any]]:
    """A parameter that is left out is not null: what the model has for that is of no concern here."""
    found = []
    for name, schema in TypeAdapter(route.query).json_schema().get("properties", {}).items():
        kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
        plain = {key: value for key, value in kinds[0].items() if key != "title"}
        found.append({"name": name, "in": "query", "required": False, "schema": plain})
    return found


def _in_headers(route: Route) -> list[dict[str, Any]]:
    names = [*route.headers, *(["If-None-Match"] if route.method == "GET" and route.kind == JSON else [])]
    limits = {"Idempotency-Key": {"pattern": "^[!-~]{1,128}$"}, "Last-Event-ID": {"pattern": "^[0-9]{1,15}$"}}
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": HEADERS[name],
            "schema": {"type": "string", **limits.get(name, {})},
        }
        for name in names
    ]


def _content(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema}}}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; models it names go to ``schemas``."""
    made = TypeAdapter(kind).json_schema(ref_template=SCHEMAS + "{model}")
    schemas |= made.pop("$defs", {})
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        schemas[kind.__name__] = made
        return {"$ref": SCHEMAS + kind.__name__}
    return dict(made)


def _version() -> str:
    try:
        return version("coat_ryu")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"
