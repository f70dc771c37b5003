"""What REST answers with: values, entity tags, pages of lists, and the bytes of them."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel
from webob import Request, Response

from coat_ryu.config import PageQuery, Query
from coat_ryu.doors import Role
from coat_ryu.errors import CoatError
from coat_ryu.feed import Event

Q = TypeVar("Q", bound=Query)
JSON, TEXT, EVENT_STREAM = "application/json", "text/plain; version=0.0.4", "text/event-stream"


class PreconditionFailed(CoatError):
    default_cause = "precondition_failed"
    response = 412


@dataclass(frozen=True, slots=True)
class Answer:
    """``events`` is a body without an end."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    events: Iterator[Event | None] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, with what varies in its path and its checked query; ``role`` is what its caller may do, ``who`` what
    it is called, ``still`` whether it may have this at a later moment, too.
    """

    request: Request
    path: dict[str, str]
    query: Query
    role: Role | None
    who: str = ""
    still: Callable[[], bool] = lambda: True

    def checked(self, kind: type[Q]) -> Q:
        """The query, as what its route says that it is."""
        assert isinstance(self.query, kind)
        return self.query

    def header(self, name: str) -> str | None:
        found: str | None = self.request.headers.get(name)
        return found


Handler = Callable[[Any, Asked], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    """``path`` holds ``{name}`` where one segment varies; ``answers`` are types by status, and ``refusals`` the
    statuses of errors besides those that every call may have. ``role`` None is open to everybody.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: dict[int, Any]
    refusals: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    body_required: bool = True
    query: type[Query] = Query
    headers: tuple[str, ...] = ()
    role: Role | None = "read"
    kind: str = JSON

    def match(self, path: str) -> dict[str, str] | None:
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path), path)
        return found.groupdict() if found else None


def page(asked: Asked, things: Sequence[Any], total: int | None = None) -> Answer:
    """A list, or the part of it that was asked for; ``total`` when ``things`` is that part already.

    ``X-Total-Count`` says how many there are, and ``Link`` where the next and the previous part are (RFC 8288).
    """
    query = asked.checked(PageQuery)
    start, count = query.offset, len(things) if total is None else total
    part = things if total is not None else things[start : None if query.limit is None else start + query.limit]
    headers = {"X-Total-Count": str(count)}
    if query.limit is not None:
        links = []
        if start + query.limit < count:
            links.append(_link(asked, start + query.limit, "next"))
        if start > 0:
            links.append(_link(asked, max(0, start - query.limit), "prev"))
        if links:
            headers["Link"] = ", ".join(links)
    return Answer(200, list(part), headers)


def _link(asked: Asked, offset: int, relation: str) -> str:
    pairs = {**asked.query.model_dump(exclude_none=True), "offset": offset}
    return f'<{asked.request.path}?{urlencode(pairs)}>; rel="{relation}"'


def encode(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body, default=str).encode() + b"\n"


def entity_tag(body: Any) -> str:
    """A strong tag: other bytes, another tag."""
    return f'"{hashlib.sha256(encode(body)).hexdigest()[:32]}"'


def matches(header: str, tag: str) -> bool:
    """Whether a list of tags, or ``*``, has one (RFC 9110, section 13.1)."""
    return header.strip() == "*" or tag in {one.strip().removeprefix("W/") for one in header.split(",")}


def insist(asked: Asked, tag: Callable[[], str]) -> None:
    """Raises PreconditionFailed unless If-Match, if there is one, has the tag."""
    wanted = asked.header("If-Match")
    if wanted is not None and not matches(wanted, tag()):
        raise PreconditionFailed(f"If-Match: it is not as it was when you looked; it has {tag()} now")


def unless_known(asked: Asked, answer: Answer) -> Answer:
    """The answer to a GET with its tag; without its body when the caller has it already."""
    if answer.status != 200 or answer.events is not None:
        return answer
    tag = answer.headers.get("ETag") or entity_tag(answer.body)
    headers = {**answer.headers, "ETag": tag}
    known = asked.header("If-None-Match")
    if known is not None and matches(known, tag):
        return Answer(304, None, {name: value for name, value in headers.items() if name != "Content-Type"})
    return Answer(200, answer.body, headers)


class _Response(Response):  # type: ignore[misc]
    def _abs_headerlist(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        """webob makes Location absolute, with a host that a relay or a tunnel in front of us has never heard of.

        A path alone is right since RFC 7231 (now RFC 9110, section 10.2.2).
        """
        return list(self.headerlist)


def respond(answer: Answer) -> Response:
    response = _Response(status=answer.status)
    if answer.events is not None:
        response.content_type, response.charset = EVENT_STREAM, None
        response.app_iter = _server_sent(answer.events)
        del response.content_length
    elif answer.body is not None:
        response.content_type, response.charset = JSON, None
        response.body = encode(answer.body)
    else:
        del response.content_type
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.update(answer.headers)
    return response


def _server_sent(events: Iterator[Event | None]) -> Iterator[bytes]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html; a comment keeps a silent connection open."""
    yield b": here they come\n\n"
    for event in events:
        if event is None:
            yield b":\n\n"
        else:
            yield f"id: {event['number']}\nevent: {event['kind']}\n".encode() + b"data: " + encode(event) + b"\n"
