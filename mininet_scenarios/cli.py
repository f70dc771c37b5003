"""The command line of the lab: ``./coat-lab up | exec | status | down | setup | logs | controller``."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from coat_ryu.errors import CoatError
from mininet_scenarios import rootfs
from mininet_scenarios.lab import DEFAULT_NAME, DEFAULT_TOPOLOGY, Lab, LabError

PODMAN_TIMEOUT = 15.0
"""Seconds; a Podman that waits for a lock of another may never answer."""

name_option = click.option(
    "--name", default=DEFAULT_NAME, envvar="COAT_LAB_NAME", show_default=True, help="Which lab; several can be up."
)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Shows the line that was reported last: in place on a terminal, else one below the other."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda line: console.print(line, markup=False)
        return
    with console.status("") as status:
        yield lambda line: status.update(console.render_str(line, markup=False)[: console.width - 4])


class Group(click.Group):
    """Turns the errors that are meant for people into one line and exit status 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (LabError, CoatError, rootfs.RootfsError, TimeoutError) as error:
            raise click.ClickException(str(error)) from None
        except PermissionError as error:
            raise click.ClickException(f"{error.filename or error}: permission denied; the lab needs root") from None


@click.group(cls=Group)
def main() -> None:
    """Hosts with their own network, Open vSwitch, Podman and sshd on this machine, and the controller."""


@main.command()
def setup() -> None:
    """Make the hosts' root file system and the container images, once."""
    with progress() as show:
        path = rootfs.ensure(show)
    click.echo(path)


@main.command()
@click.argument("topology", type=click.Path(path_type=Path), default=DEFAULT_TOPOLOGY)
@name_option
@click.option("--rest-port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option("--controller/--no-controller", default=True, help="Start the controller too.")
@click.option("--set", "options", multiple=True, metavar="OPTION=VALUE", help="For the controller's [coat] group.")
def up(topology: Path, name: str, rest_port: int, controller: bool, options: tuple[str, ...]) -> None:
    """Bring up the hosts of TOPOLOGY and the controller, in the background."""
    pairs = dict(option.split("=", 1) for option in options if "=" in option)
    if len(pairs) != len(options):
        raise click.UsageError("--set wants OPTION=VALUE, each OPTION once")
    with progress() as show:
        lab = Lab(topology, name=name, rest_port=rest_port, controller=controller, options=pairs, progress=show).up()
    lab.detach()
    click.echo(f"hosts: {', '.join(lab.state.hosts)}")
    if controller:
        click.echo(f"REST:  {lab.rest}")


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(name: str, host: str, command: tuple[str, ...]) -> None:  # the contract's name
    """Run COMMAND on HOST: ./coat-lab exec edge1 -- podman ps"""
    argv = Lab.attach(name).argv(host, command[1:] if command[0] == "--" else command)
    sys.stdout.flush()
    os.execvp(argv[0], argv)


@main.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(name: str, as_json: bool) -> None:
    """Hosts, controller and containers."""
    report = describe(Lab.attach(name))
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    controller = report["controller"]
    process = f"process {controller['pid']}" if controller["pid"] else "not running"
    click.echo(f"lab {report['name']}: {report['topology']}")
    click.echo(f"controller: {process}, {controller['rest']}")
    table = Table("host", "address", "process", "containers")
    for host in report["hosts"]:
        containers = ", ".join(f"{container['name']} ({container['state']})" for container in host["containers"])
        containers = host["problem"] or containers
        table.add_row(host["name"], f"{host['ssh_host']}:{host['ssh_port']}", str(host["pid"]), containers)
    Console().print(table)


def list_containers(lab: Lab, host: str) -> tuple[list[dict[str, Any]], str | None]:
    """What a host's Podman has, and why that is not known."""
    try:
        command = ["podman", "ps", "--all", "--format", "json"]
        listing = json.loads(lab.exec(host, command, timeout=PODMAN_TIMEOUT).stdout or "[]")
    except subprocess.TimeoutExpired:
        return [], f"podman has not answered within {PODMAN_TIMEOUT:.0f} s"
    except subprocess.CalledProcessError as error:
        return [], f"podman failed: {' '.join(str(error.stderr).split())[-200:]}"
    except ValueError:
        return [], "podman has answered something else than JSON"
    keys = {"id": "Id", "image": "Image", "state": "State"}
    return [{"name": item["Names"][0], **{key: item[theirs] for key, theirs in keys.items()}} for item in listing], None


def describe(lab: Lab) -> dict[str, Any]:
    """The lab as ``status --json`` prints it. A host that is dead has ``pid`` null and no containers; one whose Podman
    does not say what it has, a ``problem``.
    """
    hosts = []
    for name, host in lab.state.hosts.items():
        alive = Path(f"/proc/{host.pid}/ns/net").exists()
        containers, problem = list_containers(lab, name) if alive else ([], None)
        row = {
            "name": name,
            "pid": host.pid if alive else None,
            "address": host.address,
            "ssh_host": host.ssh_host,
            "ssh_port": host.ssh_port,
        }
        hosts.append({**row, "containers": containers, "problem": problem})
    return {
        "name": lab.name,
        "topology": lab.state.topology,
        "state_directory": str(lab.folder),
        "controller": {"pid": lab.controller_pid(), "rest": lab.rest},
        "hosts": hosts,
    }


@main.command()
@name_option
def down(name: str) -> None:
    """Remove the lab and everything that is left of it."""
    Lab(name=name).down()


@main.command()
@name_option
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes.")
def logs(name: str, follow: bool) -> None:
    """What the controller has written."""
    log = Lab.attach(name).folder / "controller.log"
    subprocess.run(["tail", "--lines=+1", *(["--follow"] if follow else []), str(log)], check=False)


@main.command()
@name_option
@click.argument("action", type=click.Choice(["start", "stop", "kill"]))
def controller(name: str, action: str) -> None:
    """Start or end the controller alone; kill is SIGKILL."""
    lab = Lab.attach(name)
    {"start": lab.start_controller, "stop": lab.stop_controller, "kill": lab.kill_controller}[action]()
