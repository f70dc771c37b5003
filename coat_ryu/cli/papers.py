"""Files that the controller is given: topologies checked, tokens made. No controller is asked."""

import hashlib
import re
import secrets
from pathlib import Path

import click

from coat_ryu.cli.show import JSON, as_json_text

TOKEN_BYTES = 32
ROLES = ("read", "migrate", "admin")
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,62}", re.ASCII)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@JSON
def check(file: Path, as_json: bool) -> None:
    """Says whether a topology file can be used, and if not, why."""
    from coat_ryu.cli.reach import read_topology

    topology = read_topology(file)
    counts = {kind: len(getattr(topology, kind)) for kind in ("nodes", "networks", "containers")}
    if as_json:
        as_json_text({"file": str(file), **counts})
    else:
        click.echo(f"{file}: " + ", ".join(f"{number} {kind}" for kind, number in counts.items()))


@click.command()
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@JSON
def token(name: str, role: str, as_json: bool) -> None:
    """Makes a token for NAME: shows the secret, this once, and the line for the controller's tokens file."""
    if not NAME.fullmatch(name):
        raise click.BadParameter("1 to 63 letters, digits and _.-, the first one a letter or digit", param_hint="NAME")
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    line = f"{name} {role} sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
    if as_json:
        as_json_text({"name": name, "role": role, "token": secret, "line": line})
    else:
        click.echo(f"token: {secret}\nline:  {line}")
