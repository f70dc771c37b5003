"""The Ryu application: ``ryu-manager coat_ryu.app``. Everything wired, nothing decided here.

Options live in oslo.config's group ``[coat]`` (``ryu-manager --config-file FILE coat_ryu.app``). REST and OpenFlow
listen on loopback unless they are told otherwise (``--wsapi-host``, ``--ofp-listen-host``).
"""

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from eventlet import tpool
from ryu import cfg  # Ryu has an oslo.config registry of its own
from ryu.app.wsgi import WSGIApplication
from ryu.lib import hub
from ryu.ofproto.ofproto_common import OFP_SSL_PORT, OFP_TCP_PORT

from coat_ryu import latchkey, logs, rest, shipment, southbound
from coat_ryu.containers import Containers
from coat_ryu.control import Control
from coat_ryu.doors import BadTokens, Doors, Token, parse_clients, parse_tokens
from coat_ryu.errors import CoatError
from coat_ryu.events import FabricApp
from coat_ryu.fabric import Fabric
from coat_ryu.feed import Feed, last_number
from coat_ryu.health import LOOK_EVERY, Health
from coat_ryu.journal import Journal
from coat_ryu.listen import refuse_open_door, replace_servers
from coat_ryu.metrics import Metrics
from coat_ryu.migrator import Migrator
from coat_ryu.model import Node, Topology
from coat_ryu.nodes import Nodes, Site
from coat_ryu.refusals import Refusals
from coat_ryu.reload import Reload, read_topology, refuse_orphans
from coat_ryu.remote import Login, Remote
from coat_ryu.runner import Limits, Runner
from coat_ryu.tls import Keys, Tls

LOG = logging.getLogger(__name__)

LAG_INTERVAL = 0.02
"""Seconds between two looks at the event loop."""

STATE_DIRECTORY = "/var/lib/coat" if os.geteuid() == 0 else "~/.local/state/coat"

# ryu-manager has parsed its command line before it imports an app, so these cannot be command line options of their
# own.
OPTIONS = [
    cfg.StrOpt("topology", help="The topology file (YAML). Without one there are no nodes."),
    cfg.StrOpt(
        "journal", default=f"{STATE_DIRECTORY}/journal.db", help="The SQLite file of what must not be forgotten."
    ),
    cfg.StrOpt("ssh_key", help="Private key for nodes whose topology entry names none; else those in ~/.ssh."),
    cfg.StrOpt(
        "ssh_known_hosts", default="~/.ssh/known_hosts", help="Host keys of nodes whose topology entry names none."
    ),
    cfg.StrOpt(
        "openflow_address", help="Address the switches find the controller at. Default: as the node's sshd sees us."
    ),
    cfg.IntOpt(
        "hold_packets", default=20_000, min=1, help="Packets that wait for one migrating container at the most."
    ),
    cfg.BoolOpt(
        "hold",
        default=True,
        help="Whether what arrives for a frozen container is held; else it is dropped, to compare.",
    ),
    cfg.BoolOpt(
        "repair_mss", default=True, help="Whether restored sockets get their real MSS back; else not, to compare."
    ),
    cfg.IntOpt("hold_bytes", default=64 << 20, min=1, help="Bytes that wait for one migrating container at the most."),
    cfg.IntOpt("migrations_per_node", default=4, min=1, help="Migrations that may involve one node at once."),
    cfg.FloatOpt(
        "step_timeout", default=600.0, min=1, help="Seconds that a checkpoint, a transfer or a restore may take."
    ),
    cfg.StrOpt("tokens", help="File of tokens, lines 'NAME read|migrate|admin sha256:HEX', mode 0600."),
    cfg.BoolOpt(
        "trust_loopback",
        default=False,
        help="Whether everybody on this machine may use REST on loopback without a token, which makes them root on the"
        " nodes; for a lab.",
    ),
    cfg.StrOpt("tls_cert", help="Certificate (PEM, with its chain) that REST shows."),
    cfg.StrOpt("tls_key", help="Its private key (PEM)."),
    cfg.StrOpt("tls_client_ca", help="Authorities (PEM) of whose clients REST asks for a certificate."),
    cfg.ListOpt("tls_clients", default=[], help="Names in clients' certificates, and what each may do: NAME:ROLE, ..."),
    cfg.StrOpt("tls_crl", help="Certificates (PEM) that the authorities of tls_client_ca have revoked."),
    cfg.StrOpt("openflow_crl", help="Certificates (PEM) that the authorities of --ca-certs have revoked."),
    cfg.BoolOpt(
        "openflow_open",
        default=False,
        help="Whether OpenFlow may listen beyond loopback without certificates, where anybody can be a switch.",
    ),
    cfg.FloatOpt("requests_per_second", default=100.0, min=0, help="Of one caller, on average; 0 is no limit."),
    cfg.StrOpt("log_format", default="text", choices=["text", "json"], help="How log lines are written."),
    cfg.FloatOpt("keep_migrations_days", default=90.0, min=0, help="Days that finished migrations are remembered."),
]

CONF = cfg.CONF
CONF.register_opts(OPTIONS, group="coat")
CONF.set_default("wsapi_host", "127.0.0.1")
CONF.set_default("ofp_listen_host", "127.0.0.1")


class Coat(FabricApp):
    _CONTEXTS = {"wsgi": WSGIApplication}

    def __init__(self, *args: Any, wsgi: WSGIApplication, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self._wire(wsgi)
        except CoatError as error:
            sys.exit(f"coat_ryu: {error}")  # a message and a status; a traceback would hide the one line that matters

    def _wire(self, wsgi: WSGIApplication) -> None:
        logs.configure(CONF.coat.log_format)
        self.refusals = Refusals()
        self._rest_keys = Keys(Tls(CONF.coat.tls_cert, CONF.coat.tls_key, CONF.coat.tls_client_ca, CONF.coat.tls_crl))
        openflow_keys = Keys(southbound.files(CONF, CONF.coat.openflow_crl))
        southbound.refuse_open_door(
            CONF.ofp_listen_host, bool(CONF.ofp_switch_address_list), openflow_keys.files, CONF.coat.openflow_open
        )
        self.doors = _doors(self._rest_keys.files)
        self._door = southbound.Door(openflow_keys, self.refusals)
        replace_servers(self._rest_keys, self._door)
        topology = _topology()
        # Each write waits for the disk: 1 to 4 ms, in which the event loop would stand still. SQLite lets in one at a
        # time, and each of the pool's twenty threads would take memory of its own.
        tpool.set_num_threads(1)
        journal = Journal(Path(CONF.coat.journal).expanduser(), tpool.execute, alone=True)
        refuse_orphans(topology, ((resident.spec, resident.node) for resident in journal.residents().values()))
        self.fabric = Fabric(topology)
        self.fabric.board.refusals = self.refusals
        self.nodes = Nodes(topology, _remote, _openflow, self._on_ready, journal.reign())
        self.containers = containers = Containers(topology, self.nodes, self.fabric, journal)
        limits = Limits(
            CONF.coat.hold_packets,
            CONF.coat.hold_bytes,
            CONF.coat.migrations_per_node,
            CONF.coat.step_timeout,
            CONF.coat.keep_migrations_days,
            CONF.coat.hold,
            CONF.coat.repair_mss,
        )
        self.metrics = metrics = Metrics()
        runner = Runner(self.nodes, containers, journal, limits)
        runner.on_end = metrics.count
        self.refusals.on_refused = metrics.refused
        self.migrator = Migrator(topology, self.nodes, containers, self.fabric, journal, runner)
        self.feed = feed = Feed(last=last_number(journal))
        for teller in (self.fabric, self.nodes, containers, runner, self.refusals):
            teller.tell = feed.tell
        adopters = (self.fabric, self.nodes, containers, self.migrator)
        self.reload = Reload(topology, _topology_path(), adopters, containers.places, self.migrator.busy, tpool.execute)
        self.health = Health(
            self.nodes, containers, self.fabric, journal, self.migrator.busy, lambda: self.reload.error
        )
        control = Control(
            self.nodes, containers, self.fabric, self.migrator, journal, metrics, feed, self.reload, self.health
        )
        rest.mount(wsgi, control, self.doors)

    def start(self) -> Any:
        shipment.archive()  # 50 ms of work, and kept
        gc.freeze()  # the modules are for ever; walking them in each full collection costs the event loop 60 to 130 ms
        self.fabric.start()
        self.migrator.recover()
        self.fabric.ready()  # from here on switches are made to fit what is known, so all must be known by now
        self.nodes.start()
        hub.spawn(self._watch_lag)
        hub.spawn(self._watch_containers)
        signal.signal(signal.SIGHUP, lambda number, frame: hub.spawn(self._read_again))
        return super().start()

    def _on_ready(self, site: Site) -> None:
        self.migrator.on_ready(site)  # first: what it takes up is nobody else's to tidy
        self.containers.on_ready(site)

    def _read_again(self) -> None:
        """SIGHUP: the topology and the tokens as their files say now; what is broken is left as it was."""
        self.reload.from_file()
        try:
            if self.doors.tokens is not None:
                self.doors.tokens = _tokens()
        except CoatError as error:
            LOG.error("the tokens stay as they were: %s", error)
        for keys in (self._rest_keys, self._door):
            try:
                keys.read_again()
            except CoatError as error:
                LOG.error("the certificates stay as they were: %s", error)
        self.feed.nudge()  # who may no longer follow is told to go

    def _watch_containers(self) -> None:
        while True:
            hub.sleep(LOOK_EVERY)
            self.health.look()

    def _watch_lag(self) -> None:
        """Whoever holds up the event loop holds up every migration: measured all the time."""
        while True:
            began, waited = time.monotonic(), _run_queue_wait()
            hub.sleep(LAG_INTERVAL)
            self.metrics.lag(max(0.0, time.monotonic() - began - LAG_INTERVAL), _run_queue_wait() - waited)

    def close(self) -> None:
        self.nodes.close()
        self.fabric.stop()


def _run_queue_wait() -> float:
    """Seconds that this thread has been ready to run and did not (Documentation/scheduler/sched-stats.rst)."""
    try:
        # No Path: it interns its parts, and a hundred times a second that filled CPython's table of interned strings,
        # which then grew by 4 MB.
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError):  # a kernel without schedstats
        return 0.0


def _topology_path() -> Path | None:
    return Path(CONF.coat.topology).expanduser() if CONF.coat.topology else None


def _topology() -> Topology:
    path = _topology_path()
    if path is None:
        LOG.warning("no topology: set [coat] topology in a file given with --config-file")
        return Topology()
    return read_topology(path)


def _doors(tls: Tls) -> Doors:
    """Who may use REST. Raises OpenDoor, BadTokens, BadClients."""
    refuse_open_door(CONF.wsapi_host, tls, bool(CONF.coat.tokens))
    tokens = _tokens()
    rate = CONF.coat.requests_per_second
    hint = latchkey.challenge(_own_token()) if tokens is not None and not CONF.coat.tokens else ""
    roles = dict(one.partition(":")[::2] for one in CONF.coat.tls_clients)
    clients = parse_clients(roles, tokens is not None, tls.client_ca is not None)
    guarded = tls.client_ca is not None
    return Doors(tokens, rate, max(1, int(rate * 2)), guarded=guarded, hint=hint, clients=clients)


def _own_token() -> Path:
    return Path(CONF.coat.journal).expanduser().absolute().with_suffix(".token")


def _tokens() -> tuple[Token, ...] | None:
    """Those of the file; else our own, unless certificates or an option let people in without."""
    if not CONF.coat.tokens:
        return None if CONF.coat.tls_client_ca or CONF.coat.trust_loopback else (latchkey.own_token(_own_token()),)
    path = Path(CONF.coat.tokens).expanduser()
    try:
        if path.stat().st_mode & 0o077:
            raise BadTokens(f"{path}: others can read it; chmod 600 {path}")
        return parse_tokens(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadTokens(f"{path}: cannot be read: {error}") from None


def _remote(node: Node, on_up: Callable[[], None], on_down: Callable[[], None]) -> Remote:
    return Remote(node.name, Login.of(node, CONF.coat.ssh_key, CONF.coat.ssh_known_hosts), on_up, on_down)


def _openflow(seen: str) -> str:
    """Where a switch finds the controller; ``seen`` is the controller's address as the node sees it."""
    address = CONF.coat.openflow_address or seen
    if ip_address(CONF.ofp_listen_host or "0.0.0.0").is_loopback and not ip_address(address).is_loopback:
        LOG.warning(
            "OpenFlow listens on %s only, and a node looks for it on %s: use --ofp-listen-host",
            CONF.ofp_listen_host,
            address,
        )
    if CONF.ctl_privkey and CONF.ctl_cert:  # what makes Ryu listen for TLS, and for nothing else
        return f"ssl:{address}:{CONF.ofp_ssl_listen_port or OFP_SSL_PORT}"
    return f"tcp:{address}:{CONF.ofp_tcp_listen_port or OFP_TCP_PORT}"
