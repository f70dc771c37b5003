"""The table of verbs: what a request may ask for, and the checking of its arguments.

A verb is a function whose keyword parameters are the request's arguments; their annotations say what is allowed.
"""

import ipaddress
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from coat_ryu.node.failure import Failure
from coat_ryu.node.fence import fence


@dataclass(frozen=True, slots=True)
class Rule:
    """What a string must look like: ``pattern`` matches it whole, ``meaning`` says it to a person."""

    pattern: str
    meaning: str


Name = Annotated[str, Rule(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", "a name of at most 63 letters, digits and _.-")]
Ifname = Annotated[str, Rule(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}", "an interface name of at most 15 characters")]
Netns = Annotated[str, Rule(r"coat-[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", "a namespace of ours, coat-NAME")]
Mac = Annotated[str, Rule(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", "a unicast MAC address in lower case")]
Dpid = Annotated[str, Rule(r"[0-9a-f]{16}", "16 hex digits")]
Image = Annotated[str, Rule(r"[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,254}", "an image's name or id")]
Variable = Annotated[str, Rule(r"[a-zA-Z_][a-zA-Z0-9_.-]*", "the name of an environment variable")]
Capability = Annotated[str, Rule(r"ALL|CAP_[A-Z_]{2,30}", "ALL or a capability such as CAP_NET_RAW")]
Text = Annotated[str, Rule(r"[^\0]*", "a text without a null character")]
Target = Annotated[str, Rule(r"(tcp|ssl|unix):[^\s,]+", "a controller such as tcp:10.0.0.1:6653")]

Mark = Annotated[
    str, Rule(r"[0-9a-f]{32}\.[0-9]{1,18}\.[0-9a-f]{32}", "a journal, a start and a run with dots between")
]

Verb = Callable[..., Any]
VERBS: dict[str, Verb] = {}


def verb(function: Verb) -> Verb:
    """Registers a function under its own name."""
    VERBS[function.__name__] = function
    return function


def call(name: object, args: object) -> Any:
    """Checks the arguments and the ``fence``, which every verb may have, and runs the verb. Raises Failure."""
    if not isinstance(name, str) or name not in VERBS:
        raise Failure("unknown_verb", f"there is no verb {name!r}; there are: {', '.join(sorted(VERBS))}")
    function = VERBS[name]
    if not isinstance(args, dict):
        raise Failure("bad_args", "args: an object is wanted")
    own = checked(function, {key: value for key, value in args.items() if key != "fence"})
    if args.get("fence") is None:
        return function(**own)
    _check("fence", args["fence"], dict[str, Any])
    with fence(name, **checked(_fence_arguments, args["fence"])):
        return function(**own)


def _fence_arguments(*, container: Name, epoch: int) -> None:
    """What a ``fence`` is made of."""


def checked(function: Verb, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments if they fit the function's annotations. Raises Failure naming the one that does not."""
    hints = typing.get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    defaults = function.__kwdefaults__ or {}
    for key in args:
        if key not in hints:
            raise Failure("bad_args", f"{key}: no such argument; allowed: {', '.join(hints) or 'none'}")
    for key, hint in hints.items():
        if key in args:
            _check(key, args[key], hint)
        elif key not in defaults:
            raise Failure("bad_args", f"{key}: missing")
    return args


def address(key: str, text: str, *, interface: bool = False) -> None:
    """Raises Failure unless ``text`` is an IP address, or with ``interface`` one with a prefix length."""
    try:
        if interface and "/" not in text:
            raise ValueError("the prefix length is missing")
        ipaddress.ip_interface(text) if interface else ipaddress.ip_address(text)
    except ValueError as error:
        raise Failure("bad_args", f"{key}: {error}") from None


def _check(key: str, value: object, hint: Any) -> None:
    origin = get_origin(hint)
    if origin is Annotated:
        kind, rule = get_args(hint)[:2]
        _check(key, value, kind)
        if isinstance(rule, Rule) and isinstance(value, str) and not re.fullmatch(rule.pattern, value, re.DOTALL):
            raise Failure("bad_args", f"{key}: {value[:80]!r} is not {rule.meaning}")
    elif origin in (types.UnionType, typing.Union):
        _check_union(key, value, get_args(hint))
    elif origin is typing.Literal:
        if value not in get_args(hint):
            raise Failure("bad_args", f"{key}: allowed are {', '.join(map(str, get_args(hint)))}")
    elif origin is list:
        _check(key, value, list)
        for number, item in enumerate(typing.cast(list[object], value)):
            _check(f"{key}[{number}]", item, get_args(hint)[0])
    elif origin is dict:
        _check(key, value, dict)
        for name, item in typing.cast(dict[str, object], value).items():
            _check(f"{key}: key", name, get_args(hint)[0])
            _check(f"{key}.{name}", item, get_args(hint)[1])
    elif hint is not Any and (not isinstance(value, _accepted(hint)) or (isinstance(value, bool) and hint is not bool)):
        raise Failure("bad_args", f"{key}: {hint.__name__} is wanted, not {type(value).__name__}")


def _accepted(kind: type) -> tuple[type, ...]:
    return (int, float) if kind is float else (kind,)


def _check_union(key: str, value: object, kinds: tuple[Any, ...]) -> None:
    if value is None and type(None) in kinds:
        return
    failures = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _check(key, value, kind)
            except Failure as failure:
                failures.append(failure)
    raise failures[-1]
