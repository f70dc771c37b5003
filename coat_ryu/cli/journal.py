"""The controller's journal: copied while it is in use, or made anew of what the nodes know. No controller is asked."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click

from coat_ryu.cli.client import Failed
from coat_ryu.cli.show import JSON, as_json_text

DEFAULT = "/var/lib/coat/journal.db" if os.geteuid() == 0 else "~/.local/state/coat/journal.db"


@click.command()
@click.argument("action", type=click.Choice(["backup", "rebuild"]))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--journal", "source", default=DEFAULT, show_default=True, help="backup: the controller's journal.")
@click.option("--topology", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="rebuild: its nodes.")
@click.option("--without", multiple=True, metavar="NODE", help="rebuild: do without this node; may be repeated.")
@click.option("--ssh-key", help="rebuild: for nodes whose entry names none, as in coat.conf.")
@click.option("--known-hosts", default="~/.ssh/known_hosts", show_default=True, help="Likewise.")
@JSON
def journal(
    action: str,
    file: Path,
    source: str,
    topology: Path | None,
    without: tuple[str, ...],
    ssh_key: str | None,
    known_hosts: str,
    as_json: bool,
) -> None:
    """Copies the journal to FILE (backup), or makes FILE anew of what the nodes' containers say (rebuild).

    FILE must not be there yet. A rebuilt journal knows the containers, where they are and whom the nodes obey; it does
    not know the migrations of before. The controller must not run meanwhile.
    """
    if file.exists():
        raise Failed(f"{file} is there already; move it away first")
    if action == "backup":
        done = _backup(Path(source).expanduser(), file)
    else:
        if topology is None:
            raise click.UsageError("rebuild wants --topology FILE")
        done = _rebuild(file, topology, without, ssh_key, known_hosts)
    if as_json:
        as_json_text(done)
        return
    click.echo(f"{file}: " + ", ".join(f"{len(done[what])} {what}" for what in ("containers",)))
    for warning in done["warnings"]:
        click.echo(warning, err=True)


def _backup(source: Path, file: Path) -> dict[str, Any]:
    """A whole copy, of one moment, while the controller goes on (https://www.sqlite.org/backup.html)."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    if not source.exists():
        raise Failed(f"there is no journal {source}; --journal names it")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with closing(sqlite3.connect(source, timeout=5)) as ours, closing(sqlite3.connect(part)) as copy:
            names = [name for (name,) in ours.execute("SELECT name FROM containers ORDER BY name")]
            ours.backup(copy)
        os.link(part, file)  # never over what somebody has put there meanwhile
    except (OSError, sqlite3.Error) as error:
        raise Failed(f"{source} could not be copied to {file}: {error}") from None
    finally:
        with suppress(OSError):
            part.unlink()
    return {"file": str(file), "containers": names, "warnings": []}


def _rebuild(
    file: Path, topology: Path, without: tuple[str, ...], ssh_key: str | None, known_hosts: str
) -> dict[str, Any]:
    from coat_ryu import rebuild
    from coat_ryu.cli import reach
    from coat_ryu.errors import CoatError

    logins = reach.of_topology(topology, None, ssh_key, known_hosts)
    unknown = sorted(set(without) - logins.keys())
    if unknown:
        raise Failed(f"{topology} has no node {', '.join(unknown)}; it has: {', '.join(logins)}")
    asked = {name: login for name, login in logins.items() if name not in without}
    try:
        said = rebuild.ask(asked)
        found = rebuild.conclude(said, {network.name for network in reach.read_topology(topology).networks})
        rebuild.write(file, found)
    except CoatError as error:
        raise Failed(str(error)) from None
    homes = {spec.name: node for spec, node in found.containers}
    return {"file": str(file), "containers": homes, "warnings": found.warnings}
