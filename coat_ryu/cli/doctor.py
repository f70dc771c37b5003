"""``coat doctor``: the facts fetched from where they are, the judgement (``coat_ryu.doctor``) shown."""

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import IO

import click

from coat_ryu.cli.client import Failed
from coat_ryu.cli.show import JSON, as_json_text, table
from coat_ryu.doctor import Finding, judge, parse, reaching

TIMEOUT = 90.0
"""Seconds for one machine's facts; ``criu check`` and ``podman info`` have 30 each."""
AT_ONCE = 16

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("node", required=False)
@click.option("--topology", type=FILE, help="Look at NODE of this file over SSH, or at all of its nodes.")
@click.option("--host", metavar="[USER@]HOST[:PORT]", help="Look at this host over SSH.")
@click.option("--ssh-key", help="For nodes whose entry names none, as in coat.conf.")
@click.option("--known-hosts", default="~/.ssh/known_hosts", show_default=True, help="Likewise.")
@click.option("--script", is_flag=True, help="Only print what is run on a machine, for sh(1).")
@click.option("--facts", type=click.File(), help="Judge what --script printed elsewhere; - is standard input.")
@JSON
def doctor(
    node: str | None,
    topology: Path | None,
    host: str | None,
    ssh_key: str | None,
    known_hosts: str,
    script: bool,
    facts: IO[str] | None,
    as_json: bool,
) -> None:
    """Looks whether a machine has all that a node needs, and says the line that mends it. Changes nothing.

    Without an option it looks at this machine. Fails if anything that is needed is not in order.
    """
    if script:
        click.echo(_script(), nl=False)
        return
    if sum(way is not None for way in (topology, host, facts)) > 1:
        raise click.UsageError("--topology, --host and --facts exclude each other")
    if node is not None and topology is None:
        raise click.UsageError("NODE wants --topology FILE")
    if topology is None and host is None:
        found = {"here": _look(_here if facts is None else facts.read)}
    else:
        found = _elsewhere(topology, node, host, ssh_key, known_hosts)
    _report(found, as_json)


def _script() -> str:
    return (files("coat_ryu.node") / "checkup.sh").read_text()


def _look(fetch: Callable[[], str]) -> list[Finding]:
    try:
        return judge(parse(fetch()), time.time())
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return [Finding("reached", "wrong", str(error) or type(error).__name__, "nothing else can be known without it")]


def _here() -> str:
    done = subprocess.run(["sh"], input=_script(), capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return done.stdout


def _elsewhere(
    topology: Path | None, node: str | None, host: str | None, ssh_key: str | None, known_hosts: str
) -> dict[str, list[Finding]]:
    """Findings by name of the machine; all machines are asked at once."""
    from coat_ryu.cli import reach

    doors: dict[str, tuple[str, int]] = {}
    if topology is not None:
        logins = reach.of_topology(topology, node, ssh_key, known_hosts)
        doors = {one.name: (str(one.address), one.ssh.port) for one in reach.read_topology(topology).nodes}
    else:
        logins = reach.of_host(host or "", ssh_key, known_hosts)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        scripts = {name: _script() + (reaching(name, doors) if doors else "") for name in logins}
        asked = {name: partial(reach.run_script, logins[name], script, TIMEOUT) for name, script in scripts.items()}
        looks = {name: pool.submit(_look, ask) for name, ask in asked.items()}
        return {name: look.result() for name, look in looks.items()}


def _report(found: dict[str, list[Finding]], as_json: bool) -> None:
    bad = {name: [finding for finding in findings if finding.bad] for name, findings in found.items()}
    if as_json:
        as_json_text(
            [
                {"node": name, "ok": not bad[name], "findings": [asdict(finding) for finding in findings]}
                for name, findings in found.items()
            ]
        )
    else:
        for name, findings in found.items():
            _show(name, findings)
    ailing = {name: [finding.name for finding in findings] for name, findings in bad.items() if findings}
    if ailing:
        raise Failed("not in order: " + "; ".join(f"{name}: {', '.join(what)}" for name, what in ailing.items()))


def _show(name: str, findings: list[Finding]) -> None:
    click.echo(f"{name}:")
    table((asdict(finding) for finding in findings), ("name", "state", "found", "purpose"))
    for finding in findings:
        if finding.state != "ok" and finding.mend:
            click.echo(f"\n{finding.name}: {finding.mend}")
    click.echo()
