"""Logging in to a node: an SSH transport to a host whose key is known."""

import socket
from dataclasses import dataclass
from pathlib import Path

import paramiko

from coat_ryu.model import Node

CONNECT_TIMEOUT = 15.0
"""Seconds for each of: TCP, key exchange, authentication."""
SILENCE = 10.0
"""Seconds for which a host may leave unacknowledged what it was sent before the connection is given up."""
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom to log in. ``key`` None tries OpenSSH's default files; host keys must be in ``known_hosts``."""

    host: str
    port: int
    user: str
    key: str | None
    known_hosts: str

    @classmethod
    def of(cls, node: Node, key: str | None = None, known_hosts: str = "~/.ssh/known_hosts") -> "Login":
        """A node's settings; ``key`` and ``known_hosts`` stand in for what its file leaves out."""
        ssh = node.ssh
        host = ssh.host or str(node.address)
        return cls(host, ssh.port, ssh.user, ssh.key or key, ssh.known_hosts or known_hosts)


def open_transport(login: Login) -> paramiko.Transport:
    """An authenticated transport to a host with a known key. Raises ValueError (the reason), SSHException, OSError."""
    known = known_keys(login)
    connection = socket.create_connection((login.host, login.port), CONNECT_TIMEOUT)
    # Without it each request waits for the acknowledgement of the one before (RFC 896).
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel's own patience is a quarter of an hour (tcp(7), tcp_retries2).
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE * 1000))
    transport = paramiko.Transport(connection)
    try:
        transport.banner_timeout = transport.auth_timeout = CONNECT_TIMEOUT
        options = transport.get_security_options()
        # A server has several keys; ask for one of those that we can check.
        options.key_types = sorted(
            options.key_types, key=lambda kind: not any(kind in (name, *_rsa(name)) for name in known)
        )
        transport.start_client(timeout=CONNECT_TIMEOUT)
        check_host_key(login, known, transport.get_remote_server_key())
        _authenticate(transport, login)
    except BaseException:
        transport.close()
        raise
    return transport


def _rsa(name: str) -> tuple[str, ...]:
    """Signature algorithms of the key type ``ssh-rsa`` (RFC 8332)."""
    return ("rsa-sha2-512", "rsa-sha2-256") if name == "ssh-rsa" else ()


def known_keys(login: Login) -> dict[str, paramiko.PKey]:
    """Key type to key, as the known_hosts file has them. Raises ValueError when there are none."""
    path = Path(login.known_hosts).expanduser()
    try:
        entries = paramiko.HostKeys(str(path))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: host keys cannot be checked") from error
    name = login.host if login.port == 22 else f"[{login.host}]:{login.port}"
    found = entries.lookup(name)
    if not found:
        raise ValueError(f"no host key of {name} in {path}; put it there after comparing its fingerprint")
    return {kind: found[kind] for kind in found}


def check_host_key(login: Login, known: dict[str, paramiko.PKey], got: paramiko.PKey) -> None:
    """Raises ValueError naming both fingerprints unless the server's key is the known one."""
    expected = known.get(got.get_name())
    if expected != got:
        wanted = ", ".join(f"{kind} {key.fingerprint}" for kind, key in known.items())
        raise ValueError(
            f"host key mismatch: {login.host} port {login.port} has {got.get_name()} {got.fingerprint}, "
            f"{login.known_hosts} has {wanted}"
        )


def _authenticate(transport: paramiko.Transport, login: Login) -> None:
    paths = [Path(name).expanduser() for name in ((login.key,) if login.key else DEFAULT_KEYS)]
    files = [path for path in paths if path.exists()]
    if not files:
        raise ValueError(f"no private key: {', '.join(map(str, paths))} not found")
    for path in files:
        try:
            transport.auth_publickey(login.user, paramiko.PKey.from_path(path))
            return
        except paramiko.AuthenticationException:
            continue
        except (paramiko.SSHException, ValueError, OSError) as error:
            raise ValueError(f"the private key {path} cannot be used: {error}") from error
    raise ValueError(f"{login.user} was not let in with {', '.join(map(str, files))}")
