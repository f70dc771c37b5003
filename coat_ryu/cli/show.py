"""Answers on the terminal: tables for people, JSON for scripts; and names for the shell's completion."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from coat_ryu.cli.client import Client, Failed
from coat_ryu.node.failure import printable

Row = dict[str, Any]

JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table; errors are JSON too.")
WIDTH_OF_A_FILE = 240
"""Columns, where there is no terminal to ask: what reads it wants whole lines."""


def console() -> Console:
    """Standard output; what comes from elsewhere has no say in the layout."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE, markup=False, highlight=False)


def say(line: str, *, err: bool = False) -> None:
    """A line for a person. Names in it may have been chosen by a container or a node."""
    click.echo(printable(line), err=err)


def as_json_text(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def table(rows: Iterable[Row], columns: Iterable[str]) -> None:
    """One line for each row; an absent value is an empty cell."""
    columns = tuple(columns)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(row.get(column)) for column in columns))
    console().print(shown)


def answer(value: Any, columns: Iterable[str], as_json: bool) -> None:
    """A list of objects, as it was asked for."""
    if as_json:
        as_json_text(value)
    else:
        table(value, columns)


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else printable(str(value))


def names_of(path: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completion with the names in a list that the controller has; with nothing when it does not answer."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        given = context.find_root().params
        try:
            client = Client(given["url"], given.get("token"), given.get("ca"), given.get("cert"))
            found = client.get(path)
        except (Failed, KeyError):
            return []
        return [one["name"] for one in found if one["name"].startswith(incomplete)]

    return complete


CONTAINER = click.argument("name", shell_complete=names_of("/v1.0/containers"))
HOST = click.argument("host", shell_complete=names_of("/v1.0/nodes"))
