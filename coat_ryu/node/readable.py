"""Waiting for what can be read, whatever its descriptor: select(2) takes none from 1,024 on."""

import select
from collections.abc import Iterable
from math import ceil
from typing import Protocol, TypeVar


class HasFileno(Protocol):
    def fileno(self) -> int: ...


File = TypeVar("File", bound=int | HasFileno)


def readable(files: Iterable[File], timeout: float | None) -> list[File]:
    """Those that can be read, or have ended: as soon as there are any, none after ``timeout`` seconds."""
    known = {file if isinstance(file, int) else file.fileno(): file for file in files}
    poll = select.poll()
    for descriptor in known:
        poll.register(descriptor, select.POLLIN)
    return [known[descriptor] for descriptor, _ in poll.poll(None if timeout is None else ceil(timeout * 1000))]
