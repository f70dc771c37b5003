"""Migrations: foretold, begun, watched, listed, taken back."""

import time
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import quote

import click
from rich.console import Console

from coat_ryu.cli.client import Client, Exit, Failed
from coat_ryu.cli.show import CONTAINER, HOST, JSON, as_json_text, milliseconds, say, table
from coat_ryu.node.failure import printable

POLL = 0.1
PATIENCE = 60.0
"""Seconds that a watched migration waits for a controller that went away; the next one takes it up."""

MODE = click.option("--mode", type=click.Choice(["prepared", "parallel", "sequential"]), help="Default: prepared.")
MAC = click.option("--mac", type=click.Choice(["keep", "renew"]), help="Default: keep.")
MEMORY = click.option("--memory", type=click.Choice(["full", "lazy", "precopy"]), help="Default: full.")


@click.command()
@CONTAINER
@HOST
@MODE
@MAC
@MEMORY
@JSON
@click.pass_obj
def plan(client: Client, /, as_json: bool, **wanted: str | None) -> None:
    """Says whether NAME could move to HOST now and how long it would take. Touches nothing; fails if it could not."""
    foreseen = client.call("POST", "/v1.0/plan", _request(**wanted))
    if as_json:
        as_json_text(foreseen)
    else:
        for line in _foreseen(foreseen):
            say(line)
    if not foreseen["possible"]:
        reasons = "; ".join(refusal["message"] for refusal in foreseen["refusals"])
        raise Failed(f"{foreseen['container']} cannot move to {foreseen['destination']} now: {reasons}")


def _foreseen(plan: dict[str, Any]) -> Iterator[str]:
    yield f"{plan['container']}: {plan['source']} -> {plan['destination']}, {plan['mode']}"
    expected = plan.get("expected") or {}
    told = {
        "frozen": milliseconds(expected.get("downtime_s")),
        "in all": milliseconds(expected.get("duration_s")),
        "to carry": None if expected.get("checkpoint_bytes") is None else f"{expected['checkpoint_bytes']} bytes",
        "basis": expected.get("basis"),
        "samples": expected.get("samples"),
    }
    yield from (f"  {name:<10}{value}" for name, value in told.items() if value not in (None, ""))
    yield from _warnings(plan)


def _warnings(said: dict[str, Any]) -> Iterator[str]:
    """Of a plan or a record; an older controller says nothing of the kind."""
    yield from (f"warning: {one['message']} ({one['cause']})" for one in said.get("warnings") or ())


@click.command()
@CONTAINER
@HOST
@MODE
@MAC
@MEMORY
@click.option("--watch", is_flag=True, help="Show each step as it happens, and wait for the end.")
@JSON
@click.pass_obj
def migrate(client: Client, /, watch: bool, as_json: bool, **wanted: str | None) -> None:
    """Moves container NAME to HOST and prints the migration's id. With --watch, fails unless it succeeded."""
    record = client.call("POST", "/migrate", _request(**wanted))
    if watch:
        record = _watch(client, record["id"], quiet=as_json)
    if as_json:
        as_json_text(record)
    elif not watch:
        click.echo(record["id"])
    if record["error"]:
        raise Failed(record["error"]["message"])


def _request(name: str | None, host: str | None, **options: str | None) -> dict[str, Any]:
    return {"container": name, "to": host} | {key: value for key, value in options.items() if value}


class Display:
    """Lines that stay, and on a terminal one below them that says what goes on now."""

    def __init__(self, quiet: bool) -> None:
        self._console = Console(markup=False, highlight=False, quiet=quiet, soft_wrap=True)
        self._now = self._console.status("") if self._console.is_terminal else None

    def say(self, line: str) -> None:
        self._console.print(printable(line))

    def now(self, text: str) -> None:
        if self._now is not None:
            self._now.update(text)

    def __enter__(self) -> Self:
        if self._now is not None:
            self._now.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._now is not None:
            self._now.stop()


def _watch(client: Client, identifier: str, quiet: bool) -> dict[str, Any]:
    """The finished record; unless ``quiet``, a line for each step that ended, and below it what goes on now."""
    told: set[int] = set()
    try:
        with Display(quiet) as display:
            while True:
                record = _look(client, identifier, display)
                _tell_steps(record, told, display)
                if record["state"] != "running":
                    break
                time.sleep(POLL)
            for line in _warnings(record):
                display.say(line)
            frozen = record["downtime_s"]
            rest = "" if frozen is None else f", frozen for {milliseconds(frozen)}"
            display.say(f"{record['state']} in {milliseconds(record['duration_s'])}{rest}")
    except KeyboardInterrupt:
        message = f"no longer watched, and going on; `coat abort {identifier}` takes it back"
        raise Failed(message, Exit.INTERRUPTED) from None
    return record


def _tell_steps(record: dict[str, Any], told: set[int], display: Display) -> None:
    over = record["state"] != "running"
    for index, step in enumerate(record["steps"]):
        if index not in told and (over or step["duration_s"] is not None):
            told.add(index)
            display.say(_line(step))
    under_way = (step for step in record["steps"] if step["duration_s"] is None)
    display.now(", ".join(f"{step['name']} on {step['node']}" for step in under_way))


def _line(step: dict[str, Any]) -> str:
    took = "did not end well" if step["duration_s"] is None else milliseconds(step["duration_s"])
    again = f"  {step['attempts']} attempts" if step["attempts"] > 1 else ""
    return f"{step['name']:<20} {step['node']:<16} {took:>12}{again}"


def _look(client: Client, identifier: str, display: Display) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            record: dict[str, Any] = client.get(f"/v1.0/migrations/{identifier}")
            return record
        except Failed as failure:
            if failure.exit_code != Exit.NO_CONTROLLER or time.monotonic() > deadline:
                raise
            display.now("the controller is away; waiting for it to come back")
            time.sleep(POLL)


@click.command()
@click.argument("identifier", metavar="[ID]", required=False)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest first.")
@JSON
@click.pass_obj
def migrations(client: Client, identifier: str | None, limit: int, as_json: bool) -> None:
    """Lists the migrations, the newest first; with ID, the steps of one."""
    if identifier is not None:
        _one(client.get(f"/v1.0/migrations/{quote(identifier, safe='')}"), as_json)
        return
    # A controller that knows no limit sends all.
    found = client.get(f"/v1.0/migrations?limit={limit}")[:limit]
    if as_json:
        as_json_text(found)
        return
    columns = ("id", "container", "source", "destination", "mode", "state", "started_at", "took", "frozen", "error")
    table([_readable(record) for record in found], columns)


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    took, frozen = milliseconds(record["duration_s"]), milliseconds(record["downtime_s"])
    return {**record, "took": took, "frozen": frozen, "error": (record["error"] or {}).get("cause")}


def _one(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        as_json_text(record)
        return
    say(f"{record['container']}: {record['source']} -> {record['destination']}, {record['mode']}")
    for step in record["steps"]:
        say(_line(step))
    frozen = milliseconds(record["downtime_s"]) or "not at all"
    say(f"{record['state']}; took {milliseconds(record['duration_s']) or 'no end yet'}; frozen {frozen}")
    for line in _warnings(record):
        say(line)
    if record["error"]:
        say(f"{record['error']['cause']}: {record['error']['message']}")


@click.command()
@click.argument("identifier", metavar="ID")
@JSON
@click.pass_obj
def abort(client: Client, identifier: str, as_json: bool) -> None:
    """Takes a migration back, as long as it can be."""
    record = client.call("DELETE", f"/v1.0/migrations/{quote(identifier, safe='')}")
    if as_json:
        as_json_text(record)
