"""The API as an OpenAPI 3.1 document, made from the table of routes and from the models that check the requests.

https://spec.openapis.org/oas/v3.1.0; schemas are JSON Schema 2020-12, as pydantic writes them.
"""

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter

SCHEMAS = "#/components/schemas/"


class Failure(BaseModel):
    """What every refusal looks like."""

    cause: str
    message: str
    response: int


class Route(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def body(self) -> type[BaseModel] | None: ...
    @property
    def answer(self) -> Any: ...
    @property
    def status(self) -> int: ...


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document, ready for JSON."""
    schemas: dict[str, Any] = {}
    failure = _content("application/json", _schema(Failure, schemas))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, failure)
    return {
        "openapi": "3.1.0",
        "info": {"title": "coat_ryu", "version": _version(), "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(route: Route, schemas: dict[str, Any], failure: dict[str, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": route.summary}
    if route.answer is str:
        good |= _content("text/plain", {"type": "string"})
    elif route.answer is not None:
        good |= _content("application/json", _schema(route.answer, schemas))
    names = re.findall(r"{(\w+)}", route.path)
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-z]+', '_', route.path)}".rstrip("_"),
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names],
        "responses": {str(route.status): good, "default": {"description": "Refused or failed", **failure}},
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, **_content("application/json", _schema(route.body, schemas))}
    return operation


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
