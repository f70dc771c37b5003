"""The controller's own token, made at its first start, and how a client on the same machine comes by it.

Who is refused on loopback is told which file has the token, so no client has to know where a controller keeps its
things. The client reads a file only if it belongs to the user who listens there: a stranger in the controller's place
learns nothing that it could not have read itself.
"""

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from coat_ryu.doors import BadTokens, Token, is_loopback

NAME = "local"
"""What the token is called where its bearer is named."""
SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_FILE = re.compile(r'\btoken_file="([^"]*)"')
_LISTENS = "0A"
"""The state of a socket in /proc/net/tcp that waits for connections (include/net/tcp_states.h)."""


def own_token(path: Path) -> Token:
    """The token that the file has, and a new one where there is none. Raises BadTokens."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.path.lexists(path):
            _write(path, secrets.token_urlsafe(32))
        secret = _read(path, os.geteuid())
    except OSError as error:
        raise BadTokens(f"{path}: the controller's own token cannot be kept there: {error.strerror}") from None
    if secret is None:
        raise BadTokens(f"{path}: it must be a file of ours with one token, mode 0600; remove it for a new one")
    return Token(NAME, "admin", hashlib.sha256(secret.encode()).hexdigest())


def challenge(path: Path) -> str:
    """What a refusal adds to its ``WWW-Authenticate``."""
    return f', token_file="{quote(str(path))}"'


def file_in(header: str) -> Path | None:
    """The file that a ``WWW-Authenticate`` names."""
    found = _FILE.search(header)
    return Path(unquote(found[1])) if found else None


def offered(url: str, header: str) -> str | None:
    """The secret for the controller on this machine that has answered 401; None where there is none for us."""
    path, where = file_in(header), urlsplit(url)
    if path is None or not path.is_absolute() or not is_loopback(where.hostname or ""):
        return None
    port = where.port or (443 if where.scheme == "https" else 80)
    owners: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table) as lines:
            owners |= listeners(lines, port)
    if len(owners) != 1:
        return None
    try:
        return _read(path, owners.pop())
    except OSError:
        return None


def listeners(lines: Iterable[str], port: int) -> set[int]:
    """The users whose sockets listen on a port, of the lines of /proc/net/tcp."""
    rows = [line.split() for line in lines]
    return {int(row[7]) for row in rows if row[3:4] == [_LISTENS] and int(row[1].rpartition(":")[2], 16) == port}


def _read(path: Path, owner: int) -> str | None:
    """The secret; None unless it is a plain file of the owner's that nobody else can read. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(opened, "rb") as file:
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != owner or about.st_mode & 0o077:
            return None
        text = file.read(256).decode(errors="replace").strip()
    return text if SECRET.fullmatch(text) else None


def _write(path: Path, secret: str) -> None:
    """All of it or nothing; what somebody else has made meanwhile stays. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        try:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
        finally:
            part.unlink()
