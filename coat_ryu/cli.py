"""``coat``: the controller from a terminal. Tables for people, ``--json`` for scripts.

Exit status: 0 done; 1 refused or failed (the reason is on standard error); 2 wrong usage.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click
from rich.console import Console
from rich.table import Table

from coat_ryu.config import parse_topology
from coat_ryu.errors import TopologyError

POLL = 0.1
REQUEST_TIMEOUT = 30.0


class Failed(click.ClickException):
    exit_code = 1


def _call(base: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = Request(base.rstrip("/") + path, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=REQUEST_TIMEOUT) as response:
            text = response.read()
    except HTTPError as error:
        raise Failed(_reason(error)) from None
    except (URLError, OSError) as error:
        raise Failed(f"no controller answers at {base}: {error}") from None
    return json.loads(text) if text else None


def _reason(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["message"])
    except (ValueError, KeyError, TypeError):
        return f"the controller answered {error.code}"


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--controller", default="http://127.0.0.1:8080", envvar="COAT_CONTROLLER", show_default=True, help="Its URL."
)
@click.version_option(package_name="coat_ryu")
@click.pass_context
def main(context: click.Context, controller: str) -> None:
    """Moves running containers between hosts; their TCP connections stay open."""
    context.obj = controller


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Says whether a topology file can be used, and if not, why."""
    try:
        topology = parse_topology(file.read_text(), str(file))
    except (TopologyError, UnicodeDecodeError) as error:
        raise Failed(str(error)) from None
    click.echo(
        f"{file}: {len(topology.nodes)} nodes, {len(topology.networks)} networks, {len(topology.containers)} containers"
    )


@main.command()
@JSON
@click.pass_obj
def nodes(base: str, as_json: bool) -> None:
    """Lists the hosts and how they are."""
    _show(_call(base, "GET", "/v1.0/nodes"), ("name", "address", "dpid", "ready", "error"), as_json)


@main.command()
@JSON
@click.pass_obj
def containers(base: str, as_json: bool) -> None:
    """Lists the containers and where they are."""
    _show(_call(base, "GET", "/v1.0/containers"), ("name", "node", "state", "ip", "mac", "network", "image"), as_json)


@main.command()
@JSON
@click.pass_obj
def migrations(base: str, as_json: bool) -> None:
    """Lists the migrations, the newest first."""
    columns = ("id", "container", "source", "destination", "mode", "state", "duration_s", "downtime_s")
    _show(_call(base, "GET", "/v1.0/migrations"), columns, as_json)


@main.command()
@click.argument("name")
@click.argument("host")
@click.option(
    "--mode", type=click.Choice(["prepared", "parallel", "sequential"]), default="prepared", show_default=True
)
@click.option("--mac", type=click.Choice(["keep", "renew"]), default="keep", show_default=True)
@click.option("--watch", is_flag=True, help="Show each step as it happens, and wait for the end.")
@JSON
@click.pass_obj
def migrate(base: str, name: str, host: str, mode: str, mac: str, watch: bool, as_json: bool) -> None:
    """Moves container NAME to HOST. With --watch, fails unless the migration succeeded."""
    record = _call(base, "POST", "/migrate", {"container": name, "to": host, "mode": mode, "mac": mac})
    if watch:
        record = _watch(base, record, quiet=as_json)
    if as_json:
        click.echo(json.dumps(record, indent=2))
    elif not watch:
        click.echo(record["id"])
    if record["error"]:
        raise Failed(record["error"]["message"])


def _watch(base: str, record: dict[str, Any], quiet: bool) -> dict[str, Any]:
    shown = 0
    while True:
        record = _call(base, "GET", f"/v1.0/migrations/{record['id']}")
        finished = [step for step in record["steps"] if step["duration_s"] is not None]
        for step in finished[shown:] if not quiet else ():
            click.echo(f"{step['name']:<18} {step['node']:<16} {step['duration_s'] * 1000:8.1f} ms")
        shown = len(finished)
        if record["state"] != "running":
            break
        time.sleep(POLL)
    if not quiet:
        downtime = record["downtime_s"]
        told = "" if downtime is None else f", {downtime * 1000:.1f} ms of them frozen"
        click.echo(f"{record['state']} in {record['duration_s'] * 1000:.1f} ms{told}")
    return record


@main.command()
@click.argument("migration")
@click.pass_obj
def abort(base: str, migration: str) -> None:
    """Takes a migration back, as long as it can be."""
    _call(base, "DELETE", f"/v1.0/migrations/{migration}")


@main.command()
@click.option("--remove", is_flag=True, help="Remove what may go; without it, only show.")
@JSON
@click.pass_obj
def cleanup(base: str, remove: bool, as_json: bool) -> None:
    """Shows what lies on the hosts and belongs to no container and no migration."""
    answer = _call(base, "POST", "/v1.0/cleanup", {"remove": remove})
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    _show(answer["found"], ("node", "kind", "name", "removed", "keep"), as_json)
    for name, why in answer["unreachable"].items():
        click.echo(f"{name}: not looked at: {why}", err=True)
