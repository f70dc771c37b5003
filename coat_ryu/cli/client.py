"""The controller's REST API, and what becomes of its refusals: a sentence and an exit status."""

import json
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import click

from coat_ryu import latchkey
from coat_ryu.node.failure import printable

REQUEST_TIMEOUT = 60.0
"""Seconds; making a container and looking for residue ask the nodes, and take the longest."""


class Exit(IntEnum):
    """Exit statuses of ``coat``; 2 is click's, for wrong usage."""

    FAILED = 1
    """It was done and did not succeed: rolled back, failed, not possible, not in order."""
    REFUSED = 3
    NOT_FOUND = 4
    DENIED = 5
    NO_CONTROLLER = 6
    BROKEN = 7
    """The controller, a node or a switch failed."""
    UNSUPPORTED = 8
    """The controller does not have that call."""
    INTERRUPTED = 130


class Failed(click.ClickException):
    """Ends the command. ``answer`` is the controller's JSON, where it said anything."""

    def __init__(self, message: str, code: Exit = Exit.FAILED, answer: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # the class's is a default
        self.answer = answer or {"cause": code.name.lower(), "message": message, "response": None}
        context = click.get_current_context(silent=True)
        self._as_json = bool(context and context.params.get("as_json"))

    def show(self, file: IO[Any] | None = None) -> None:
        # One line, whatever a parser or a node has said.
        text = json.dumps(self.answer) if self._as_json else f"coat: {printable(' '.join(self.message.split()))}"
        click.echo(text, file=file, err=True)


@dataclass(slots=True)
class Client:
    """The controller at ``url``. ``ca`` and ``cert`` are PEM files, for https. Without a ``token``, that of a
    controller on this machine is used if we may read it. Methods raise Failed.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of an answer; None when there is none."""
        with self._open(method, path, body, REQUEST_TIMEOUT) as response:
            text = response.read()
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise self._stranger(response.status) from None

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def events(self, after: int | None = None) -> Iterator[dict[str, Any]]:
        """What happens, as it happens: for ever, or until the controller ends. ``after`` is the last one known."""
        headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
        with self._open("GET", "/v1.0/events", None, None, headers) as response:
            try:
                yield from parse_events(line.decode() for line in response)
            except (OSError, HTTPException) as error:
                raise Failed(f"the controller at {self.url} went away: {error}", Exit.NO_CONTROLLER) from None

    def _open(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        timeout: float | None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        request = Request(self.url + path, method=method, headers=headers or {})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self.token:
            # urllib does not send it on to where it is redirected
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        # No proxy of the environment: the controller is next door, and a token is not for third parties.
        handlers = [ProxyHandler({}), HTTPSHandler(context=self._trust())]
        try:
            return build_opener(*handlers).open(request, timeout=timeout)
        except HTTPError as error:
            if error.code == 401 and not self.token:
                self.token = latchkey.offered(self.url, error.headers.get("WWW-Authenticate", ""))
                if self.token:
                    return self._open(method, path, body, timeout, headers)
            raise self._refusal(error, method, path) from None
        except (URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, ssl.SSLError):
                hint = "--ca names the authority of its certificate, --cert our own"
                raise Failed(f"no trust between us and {self.url}: {reason}; {hint}", Exit.DENIED) from None
            raise Failed(f"no controller answers at {self.url}: {reason}", Exit.NO_CONTROLLER) from None

    def _trust(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert:
                context.load_cert_chain(self.cert)
        except OSError as error:  # ssl.SSLError is one
            raise Failed(f"the certificates cannot be used: {error}", Exit.DENIED) from None
        return context

    def _refusal(self, error: HTTPError, method: str, path: str) -> Failed:
        try:
            answer = json.loads(error.read())
            cause, message = answer["cause"], str(answer["message"])
        except (ValueError, KeyError, TypeError, OSError):
            return self._stranger(error.code)
        if cause in ("no_such_path", "method_not_allowed"):
            message = (
                f"the controller at {self.url} has no {method} {path.partition('?')[0]}; it is older than this coat"
            )
            return Failed(message, Exit.UNSUPPORTED, answer)
        if error.code == 401 and not self.token:
            file = latchkey.file_in(error.headers.get("WWW-Authenticate", ""))
            message += "; give a token with COAT_TOKEN or --token"
            message += f", or be who may read {file} on the controller's machine" if file else ""
        return Failed(message, exit_for(error.code), answer)

    def _stranger(self, status: int) -> Failed:
        if status >= 500:  # a relay in front of it, most likely
            return Failed(f"no controller answers behind {self.url} (HTTP {status})", Exit.NO_CONTROLLER)
        return Failed(f"what answers at {self.url} is no coat controller (HTTP {status})", Exit.NO_CONTROLLER)


def exit_for(status: int) -> Exit:
    """The exit status for an HTTP status of 400 or more."""
    if status >= 500:
        return Exit.BROKEN
    return {401: Exit.DENIED, 403: Exit.DENIED, 404: Exit.NOT_FOUND}.get(status, Exit.REFUSED)


def parse_events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects in a stream of Server-Sent Events (HTML standard, section 9.2.6)."""
    data: list[str] = []
    for line in lines:
        text = line.rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text.removeprefix("data:").removeprefix(" "))
        elif not text and data:
            yield json.loads("\n".join(data))
            data = []
