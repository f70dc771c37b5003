"""What there is: hosts, containers, residue, and what happens to them."""

import json
from typing import Any
from urllib.parse import quote

import click

from coat_ryu.cli.client import Client
from coat_ryu.cli.show import CONTAINER, HOST, JSON, answer, as_json_text, say, table


@click.command()
@JSON
@click.pass_obj
def nodes(client: Client, as_json: bool) -> None:
    """Lists the hosts and how they are."""
    found = client.get("/v1.0/nodes")
    if not as_json:
        found = [{**node, **(node["facts"].get("versions") or {})} for node in found]
    answer(found, ("name", "address", "dpid", "ready", "podman", "criu", "ovs", "error"), as_json)


@click.command()
@JSON
@click.pass_obj
def containers(client: Client, as_json: bool) -> None:
    """Lists the containers and where they are."""
    columns = ("name", "node", "state", "ip", "mac", "network", "image", "problem")
    answer(client.get("/v1.0/containers"), columns, as_json)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--network", help="Default: the topology's first.")
@click.option("--ip", help="Default: the first that is free.")
@click.option("--ip6")
@click.option("--mac", help="Default: made from network and IP.")
@click.option("--env", "-e", multiple=True, metavar="KEY=VALUE", help="An environment variable; may be repeated.")
@click.option("--cap-drop", multiple=True, metavar="CAPABILITY", help="A capability to go without; may be repeated.")
@click.option("--security-opt", multiple=True, metavar="OPTION", help="no-new-privileges.")
@click.option("--mem-limit", metavar="SIZE", help="Memory at the most, such as 64m.")
@click.option("--cpus", type=float, help="Processors at the most, such as 0.5.")
@click.option("--pids-limit", type=int, help="Processes and threads at the most.")
@JSON
@click.argument("name")
@HOST
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(
    client: Client,
    /,
    name: str,
    host: str,
    image: str,
    command: tuple[str, ...],
    env: tuple[str, ...],
    as_json: bool,
    **wanted: Any,
) -> None:
    """Runs a new container NAME on HOST from an IMAGE that the host has; options come first.

    coat run --ip 192.168.50.9 web edge1 localhost/web httpd -f
    """
    pairs = dict(one.split("=", 1) for one in env if "=" in one)
    if len(pairs) != len(env):
        raise click.UsageError("--env wants KEY=VALUE, each KEY once")
    body: dict[str, Any] = {key: value for key, value in wanted.items() if value not in (None, ())}
    body |= {"name": name, "node": host, "image": image, "env": pairs}
    if command:
        body["command"] = list(command)
    made = client.call("POST", "/v1.0/containers", body)
    if as_json:
        as_json_text(made)
    else:
        say(f"{made['name']} runs on {made['node']} with {made['ip']}")


@click.command()
@CONTAINER
@JSON
@click.pass_obj
def start(client: Client, name: str, as_json: bool) -> None:
    """Starts a declared container NAME that waits for nodes to be asked whether they have it: they have not."""
    started = client.call("POST", f"/v1.0/containers/{quote(name, safe='')}/start")
    if as_json:
        as_json_text(started)
    else:
        say(f"{name} is {started['state']} on {started['node']}")


@click.command()
@HOST
@JSON
@click.pass_obj
def takeover(client: Client, host: str, as_json: bool) -> None:
    """Takes HOST over from another controller, which is refused there from now on."""
    taken = client.call("POST", f"/v1.0/nodes/{quote(host, safe='')}/take-over")
    if as_json:
        as_json_text(taken)
    else:
        say(f"{host} obeys this controller; before, {taken['before'] or 'nobody'}")


@click.command()
@CONTAINER
@JSON
@click.pass_obj
def remove(client: Client, name: str, as_json: bool) -> None:
    """Removes container NAME, with its namespace, port and binding."""
    client.call("DELETE", f"/v1.0/containers/{quote(name, safe='')}")
    if as_json:
        as_json_text({"name": name, "removed": True})


@click.command()
@click.option("--after", type=int, metavar="NUMBER", help="Begin behind this event; without it, with the next one.")
@JSON
@click.pass_obj
def events(client: Client, after: int | None, as_json: bool) -> None:
    """Tells what happens, a line an event, until it is interrupted. With --json, a JSON object a line."""
    for event in client.events(after):
        if as_json:
            click.echo(json.dumps(event))
            continue
        rest = {key: value for key, value in event.items() if key not in ("number", "at", "kind")}
        click.echo(f"{event.get('number', '')} {event.get('at', '')} {event.get('kind', '')} {json.dumps(rest)}")


@click.command()
@click.option("--remove", is_flag=True, help="Remove what may go; without it, only show.")
@JSON
@click.pass_obj
def cleanup(client: Client, remove: bool, as_json: bool) -> None:
    """Shows what lies on the hosts and belongs to no container and no migration."""
    found = client.call("POST", "/v1.0/cleanup", {"remove": remove})
    if as_json:
        as_json_text(found)
        return
    table(found["found"], ("node", "kind", "name", "removed", "keep"))
    for name, why in found["unreachable"].items():
        say(f"{name}: not looked at: {why}", err=True)
