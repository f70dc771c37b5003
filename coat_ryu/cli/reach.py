"""Machines that are reached over SSH: which, and what a script says there.

Imported when it is wanted only: with paramiko and pydantic every command would take half a second longer to begin.
"""

import re
from pathlib import Path

import click
import paramiko

from coat_ryu.cli.client import Failed
from coat_ryu.config import parse_topology
from coat_ryu.errors import TopologyError
from coat_ryu.model import Topology
from coat_ryu.ssh import Login, open_transport

OUTPUT_MAX = 1 << 20
"""Bytes that a script may print."""


def read_topology(file: Path) -> Topology:
    """Raises Failed with all that is wrong with the file."""
    try:
        return parse_topology(file.read_text(), str(file))
    except (TopologyError, UnicodeDecodeError) as error:
        raise Failed(str(error)) from None


def of_topology(file: Path, node: str | None, ssh_key: str | None, known_hosts: str) -> dict[str, Login]:
    """All nodes of a topology file by name, or one. Raises Failed."""
    logins = {one.name: Login.of(one, ssh_key, known_hosts) for one in read_topology(file).nodes}
    if node is None:
        return logins
    if node not in logins:
        raise Failed(f"{file} has no node {node!r}; it has: {', '.join(logins)}")
    return {node: logins[node]}


def of_host(host: str, ssh_key: str | None, known_hosts: str) -> dict[str, Login]:
    """``[USER@]HOST[:PORT]``; an IPv6 address with a port stands in brackets. Raises BadParameter."""
    match = re.fullmatch(r"(?:([^@]+)@)?(\[[^]]+\]|[^:@]+)(?::(\d+))?", host)
    if match is None:
        raise click.BadParameter(f"{host!r} is not [USER@]HOST[:PORT]", param_hint="--host")
    user, name, port = match.groups()
    return {host: Login(name.strip("[]"), int(port or 22), user or "root", ssh_key, known_hosts)}


def run_script(login: Login, script: str, timeout: float) -> str:
    """What ``sh`` prints there. Raises OSError, ValueError."""
    try:
        with open_transport(login) as transport:
            channel = transport.open_session(timeout=timeout)
            channel.settimeout(timeout)
            channel.exec_command("sh -s")
            channel.sendall(script.encode())
            channel.shutdown_write()
            with channel.makefile("rb") as output:
                said = bytes(output.read(OUTPUT_MAX + 1))
            if len(said) > OUTPUT_MAX:
                raise ValueError(f"{login.host} says more than {OUTPUT_MAX} bytes")
            return said.decode(errors="replace")
    except paramiko.SSHException as error:
        raise ValueError(str(error) or type(error).__name__) from error
