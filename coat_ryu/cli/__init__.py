"""``coat``: the controller from a terminal. Tables for people, ``--json`` for scripts, exit statuses for both.

The exit statuses are ``client.Exit``; the reason is one sentence on standard error.
"""

from typing import Any

import click

from coat_ryu.cli.client import Client, Exit, Failed
from coat_ryu.cli.doctor import doctor
from coat_ryu.cli.journal import journal
from coat_ryu.cli.moving import abort, migrate, migrations, plan
from coat_ryu.cli.overlay import cleanup, containers, events, nodes, remove, run, start, takeover
from coat_ryu.cli.papers import check, token

DEFAULT_URL = "http://127.0.0.1:8080"
COMMANDS = (
    check,
    nodes,
    containers,
    run,
    start,
    remove,
    plan,
    migrate,
    migrations,
    abort,
    events,
    cleanup,
    takeover,
    journal,
    doctor,
    token,
)


class InOrder(click.Group):
    """Lists the commands as one gets to need them, not by the alphabet."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            raise Failed("interrupted", Exit.INTERRUPTED) from None


def _url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} does not begin with http:// or https://")
    return value.rstrip("/")


FILE = click.Path(exists=True, dir_okay=False)


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 1 it did not succeed; 2 wrong usage; 3 refused; 4 no such thing; 5 not allowed; "
    "6 no controller answers; 7 the controller, a node or a switch failed; 8 the controller has no such call.",
)
@click.option(
    "--url", default=DEFAULT_URL, envvar="COAT_URL", callback=_url, show_default=True, help="The controller's URL."
)
@click.option("--token", envvar="COAT_TOKEN", help="Who we are; better in COAT_TOKEN, where `ps` does not show it.")
@click.option("--ca", envvar="COAT_CA", type=FILE, help="PEM file with the authority of the controller's certificate.")
@click.option("--cert", envvar="COAT_CERT", type=FILE, help="PEM file with our certificate and its key.")
@click.version_option(package_name="coat_ryu")
@click.pass_context
def main(context: click.Context, url: str, token: str | None, ca: str | None, cert: str | None) -> None:
    """Moves running containers between hosts; their TCP connections stay open."""
    context.obj = Client(url, token, ca, cert)


for command in COMMANDS:
    main.add_command(command)
