"""Everything that can go wrong, as one tree.

    CoatError                   cause "error",            response 500
    |-- InputError              cause "bad_input",        response 400   what the caller sent
    |   `-- TopologyError       cause "bad_topology",     response 400   a topology file
    |-- NotFound                cause "not_found",        response 404
    |-- Conflict                cause "conflict",         response 409   what is asked for cannot be done now
    |-- NodeError               cause "node_failed",      response 502   a node did not do what it was told
    |   |-- NodeUnreachable     cause "node_unreachable", response 503
    |   `-- NodeTimeout         cause "node_timeout",     response 504
    |-- MemoryLost              cause "memory_lost",      response 500   of a container that ran already: it has ended
    `-- SwitchError             cause "switch_failed",    response 502
        |-- SwitchGone          cause "switch_gone",      response 503
        `-- SwitchTimeout       cause "switch_timeout",   response 504

``cause`` is the short machine word of the REST error shape, ``str(error)`` its sentence for a person and
``response`` its HTTP status (the shape is Podman's: cause, message, response).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class CoatError(Exception):
    """Base of all errors that the project raises on purpose.

    ``cause`` overrides the class's machine word where one class covers several cases, for example
    ``Conflict("...", cause="already_migrating")``. ``headers`` go with its REST answer.
    """

    default_cause: ClassVar[str] = "error"
    response: ClassVar[int] = 500
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str, *, cause: str | None = None) -> None:
        super().__init__(message)
        self.cause = cause or self.default_cause

    def as_json(self) -> dict[str, object]:
        return {"cause": self.cause, "message": str(self), "response": self.response}


class InputError(CoatError):
    default_cause = "bad_input"
    response = 400


class TopologyError(InputError):
    default_cause = "bad_topology"


class NotFound(CoatError):
    default_cause = "not_found"
    response = 404


class Conflict(CoatError):
    default_cause = "conflict"
    response = 409


class NodeError(CoatError):
    """A node refused or failed a request.

    ``node`` is its name, ``command`` what it was doing there (a hook verb or an argv) and ``stderr`` the end of
    what it said.
    """

    default_cause = "node_failed"
    response = 502

    def __init__(
        self, message: str, *, node: str, command: str = "", stderr: str = "", cause: str | None = None
    ) -> None:
        super().__init__(message, cause=cause)
        self.node = node
        self.command = command
        self.stderr = stderr


class NodeUnreachable(NodeError):
    default_cause = "node_unreachable"
    response = 503


class NodeTimeout(NodeError):
    default_cause = "node_timeout"
    response = 504


IN_FLIGHT = "connections_in_flight"
"""The cause when a container could not be frozen for connections that were being opened: it is busy, not unfit."""


class MemoryLost(CoatError):
    default_cause = "memory_lost"


class SwitchError(CoatError):
    default_cause = "switch_failed"
    response = 502


class SwitchGone(SwitchError):
    default_cause = "switch_gone"
    response = 503


class SwitchTimeout(SwitchError):
    default_cause = "switch_timeout"
    response = 504
