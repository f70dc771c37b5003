"""A journal made anew of what nodes know: every container's label has what it was made of, every node whom it obeys."""

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_ryu.census import ALIVE, whereabouts
from coat_ryu.errors import CoatError
from coat_ryu.journal import Journal
from coat_ryu.model import ContainerSpec
from coat_ryu.nodes import BRIDGE
from coat_ryu.remote import Login, Remote

CONNECT_TIMEOUT = 60.0
ASK_TIMEOUT = 60.0
AT_ONCE = 16


class NotRebuilt(CoatError):
    """Nothing was written; the message says what is in the way."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one node says: its containers (the hook's ``container_list``), and whom it obeys (``obeyed``)."""

    containers: list[dict[str, Any]]
    obeyed: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Found:
    """``identity`` and ``start`` are of the journal that the nodes obey; None where they do not agree, or obey none."""

    containers: list[tuple[ContainerSpec, str]]
    identity: str | None
    start: int
    warnings: list[str]


def conclude(said: Mapping[str, Said], networks: set[str]) -> Found:
    """Raises NotRebuilt or Doubled when it cannot be said where a container lives."""
    where: dict[str, dict[str, dict[str, Any]]] = {}
    for node, one in said.items():
        for info in one.containers:
            where.setdefault(info["name"], {})[node] = info
    containers: list[tuple[ContainerSpec, str]] = []
    warnings: list[str] = []
    for name, found in sorted(where.items()):
        home = whereabouts(name, {node: info["state"] for node, info in found.items()})
        if home is None:
            warnings.append(f"{name}: left out, for it never ran on {', '.join(found)}")
            continue
        spec = _spec(found[home])
        if spec is None or spec.network not in networks:
            warnings.append(f"{name}: left out, for its label on {home} does not say what it was made of")
            continue
        containers.append((spec, home))
        if found[home]["state"] not in ALIVE:
            warnings.append(f"{name}: {found[home]['state']} on {home}")
    masters = {one.obeyed["journal"] for one in said.values() if one.obeyed is not None}
    if len(masters) > 1:
        warnings.append("the nodes do not obey one journal: take them over with `coat takeover NODE`")
    identity = masters.pop() if len(masters) == 1 else None
    start = max((one.obeyed["start"] for one in said.values() if one.obeyed is not None), default=0)
    return Found(containers, identity, start, warnings)


def _spec(info: dict[str, Any]) -> ContainerSpec | None:
    with suppress(ValueError, TypeError):
        return ContainerSpec.model_validate(info["spec"])
    return None


def ask(logins: Mapping[str, Login]) -> dict[str, Said]:
    """What every node says, all asked at once. Raises NotRebuilt when one cannot be asked."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(logins, pool.map(_ask, logins, logins.values()), strict=True))


def _ask(name: str, login: Login) -> Said:
    remote = Remote(name, login)
    remote.start()
    try:
        give_up = time.monotonic() + CONNECT_TIMEOUT
        while not remote.connected and time.monotonic() < give_up:
            time.sleep(0.05)
        listed = remote.call("container_list", {}, ASK_TIMEOUT).result
        return Said(listed, remote.call("obeyed", {"bridge": BRIDGE}, ASK_TIMEOUT).result)
    except CoatError as error:
        raise NotRebuilt(
            f"{error}. Nothing was written: what only that node has would be missing, and be made a second time; "
            f"`--without {name}` does without it"
        ) from None
    finally:
        remote.close()


def write(file: Path, found: Found) -> None:
    """All of it or nothing. Raises JournalError, NotRebuilt."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    journal = Journal(part)
    try:
        for spec, node in found.containers:
            journal.put_resident(spec, node)
        if found.identity is not None:
            journal.succeed(found.identity, found.start)
        journal.close()  # the last to close it also puts the write-ahead log into it
        os.link(part, file)
    except OSError as error:
        raise NotRebuilt(f"{file} cannot be written: {error}") from None
    finally:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{part}{suffix}").unlink()
