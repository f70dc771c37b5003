"""Who may come in: tokens with roles, what a browser may be used for, and how often anybody may ask.

A token is 32 random bytes that the controller never keeps: its file has their SHA-256, which needs no salt and no
stretching, for nobody can guess 256 random bits.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType
from typing import Literal, get_args
from urllib.parse import urlsplit

from coat_ryu.errors import CoatError
from coat_ryu.places import neighbourhood

Role = Literal["read", "migrate", "admin"]
"""Each may do what those before it may."""

BUCKETS = 4096
"""Callers whose rate is remembered; beyond that those that have been quiet are forgotten."""


class BadTokens(CoatError):
    default_cause = "bad_tokens"


class BadClients(CoatError):
    default_cause = "bad_clients"


class Unauthorized(CoatError):
    default_cause = "unauthorized"
    response = 401

    def __init__(self, message: str, hint: str = "") -> None:
        """``hint`` goes on with the challenge (RFC 9110, section 11.3)."""
        super().__init__(message)
        self.headers = MappingProxyType({"WWW-Authenticate": f'Bearer realm="coat"{hint}'})


class Forbidden(CoatError):
    default_cause = "forbidden"
    response = 403


class TooManyRequests(CoatError):
    default_cause = "too_many_requests"
    response = 429

    def __init__(self, wait: float) -> None:
        super().__init__(f"too many requests; again in {wait:.1f} s")
        self.headers = {"Retry-After": str(max(1, round(wait + 0.5)))}


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    role: Role
    digest: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the peer's address, and what the request's headers say."""

    address: str
    authorization: str = ""
    host: str = ""
    origin: str = ""
    names: tuple[str, ...] = ()
    """What its certificate calls it."""


def parse_tokens(text: str, source: str) -> tuple[Token, ...]:
    """The lines ``name role sha256:HEX`` of a file; empty ones and those that begin with # are left out.

    Raises BadTokens, which names the line and nothing that is in it.
    """
    tokens: list[Token] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(r"\s*([\w.-]{1,63})\s+(\w+)\s+sha256:([0-9a-f]{64})\s*", line)
        if not found or found[2] not in get_args(Role):
            raise BadTokens(f"{source}, line {number}: 'NAME read|migrate|admin sha256:HEX' is wanted")
        if found[1] in {token.name for token in tokens}:
            raise BadTokens(f"{source}, line {number}: the name {found[1]} is there already")
        tokens.append(Token(found[1], found[2], found[3]))  # type: ignore[arg-type]
    if not tokens:
        raise BadTokens(f"{source}: there is no token in it")
    return tuple(tokens)


def parse_clients(roles: Mapping[str, str], has_tokens: bool, has_authority: bool) -> dict[str, Role] | None:
    """Roles by the names in clients' certificates; None: no certificate says what somebody may do.

    Raises BadClients, also where certificates without names would be all that is asked for: an authority signs more
    than those who may use REST.
    """
    if roles and not has_authority:
        raise BadClients("[coat] tls_clients needs tls_client_ca, which says whose certificates count")
    if has_authority and not roles and not has_tokens:
        raise BadClients("[coat] tls_client_ca: say whose certificates may do what, by tls_clients or with tokens")
    for name, role in roles.items():
        if not name or role not in get_args(Role):
            raise BadClients(f"[coat] tls_clients: {name}:{role}: NAME:read, NAME:migrate or NAME:admin is wanted")
    return dict(roles) or None  # type: ignore[arg-type]


def is_loopback(host: str) -> bool:
    """Whether a name or address to listen on is this machine's own; an empty one is every address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Doors:
    """``tokens`` None lets everybody in who reaches us: on loopback, or with a certificate. With ``clients`` that has a
    name in there, whose role is the most that its owner may do, whatever the token.

    ``rate`` is how many requests a second one caller may make on average, and ``burst`` how many at once; rate 0 is no
    limit. ``guarded`` says that something else than a token keeps strangers out. ``hint`` is for the challenge that
    callers on this machine get.
    """

    def __init__(
        self,
        tokens: tuple[Token, ...] | None = None,
        rate: float = 0.0,
        burst: int = 200,
        guarded: bool = False,
        hint: str = "",
        clients: Mapping[str, Role] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokens = tokens
        self._rate, self._burst = rate, burst
        self._guarded = guarded
        self._hint = hint
        self._clients = clients
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def role_of(self, caller: Caller) -> Role | None:
        """What the caller may do at the most; None without a token that is known, or a certificate."""
        token = self._token(caller)
        roles: list[Role | None] = []
        if self.tokens is not None:
            roles.append(token.role if token else None)
        if self._clients is not None:
            roles.append(self._certified(caller))
        return min(roles, key=lambda role: -1 if role is None else get_args(Role).index(role), default="admin")

    def admit(self, caller: Caller) -> None:
        """Counts a request. Raises TooManyRequests, or Forbidden for a browser that was sent by somebody else."""
        token = self._token(caller)
        self._count(f"token {token.name}" if token else f"address {neighbourhood(caller.address)}")
        self._refuse_browsers(caller)
        if self._clients is not None and self._certified(caller) is None:
            whose = ", ".join(caller.names)[:80] or "nobody"
            raise Forbidden(f"certificate: that of {whose} opens nothing here", cause="unknown_certificate")

    def allow(self, caller: Caller, needed: Role | None) -> None:
        """Raises Unauthorized or Forbidden; ``needed`` None is open to everybody."""
        if needed is None:
            return
        if self._clients is not None:
            whose = next(iter(caller.names), "nobody")
            self._suffice(f"the certificate of {whose}", self._certified(caller), needed)
        if self.tokens is None:
            return
        token = self._token(caller)
        if token is None:
            said = "is not known" if caller.authorization else "is missing"
            hint = self._hint if is_loopback(caller.address) else ""
            raise Unauthorized(f"Authorization: a bearer token is wanted, and it {said}", hint)
        self._suffice(f"the token {token.name}", token.role, needed)

    @staticmethod
    def _suffice(what: str, role: Role | None, needed: Role) -> None:
        roles = get_args(Role)
        if role is None or roles.index(role) < roles.index(needed):
            raise Forbidden(f"{what} may {role or 'nothing'}; this needs {needed}")

    def _certified(self, caller: Caller) -> Role | None:
        clients = self._clients or {}
        return next((clients[name] for name in caller.names if name in clients), None)

    def may(self, caller: Caller, needed: Role | None) -> bool:
        """Whether ``allow`` lets the caller pass, now."""
        try:
            self.allow(caller, needed)
        except CoatError:
            return False
        return True

    def name_of(self, caller: Caller) -> str:
        """Who asks, for those who look back later: by token and by the first of a certificate's names, else by
        address.
        """
        token = self._token(caller)
        known = [f"token {token.name}"] if token else []
        known += [f"certificate {name}" for name in caller.names[:1]]
        return ", ".join(known) or f"address {caller.address}"

    def _token(self, caller: Caller) -> Token | None:
        """Compares with every token, so that the time taken tells nothing."""
        kind, _, secret = caller.authorization.partition(" ")
        digest = hashlib.sha256(secret.strip().encode(errors="surrogateescape")).hexdigest()
        found = None
        for token in self.tokens or ():
            if hmac.compare_digest(token.digest, digest) and kind.lower() == "bearer":
                found = token
        return found

    def _refuse_browsers(self, caller: Caller) -> None:
        """Pages of other sites make a browser ask for them; a loopback address does not keep those out."""
        if caller.origin and urlsplit(caller.origin).netloc != caller.host:
            raise Forbidden(f"Origin: pages of {caller.origin[:80]} may not ask here", cause="cross_origin")
        if self.tokens is None and not self._guarded and not _is_plain(caller.host):
            message = "Host: without tokens only an IP address or localhost is answered to, for a name may be anybody's"
            raise Forbidden(message, cause="foreign_host")

    def _count(self, who: str) -> None:
        """A token bucket (RFC 3290, section 5.1.3, has the idea)."""
        if not self._rate:
            return
        now = self._clock()
        if who not in self._buckets and len(self._buckets) >= BUCKETS:
            quiet = now - self._burst / self._rate
            self._buckets = {name: kept for name, kept in self._buckets.items() if kept[1] > quiet}
        level, since = self._buckets.get(who, (float(self._burst), now))
        level = min(self._burst, level + (now - since) * self._rate)
        if level < 1:
            self._buckets[who] = (level, now)
            raise TooManyRequests((1 - level) / self._rate)
        self._buckets[who] = (level - 1, now)


def _is_plain(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False
