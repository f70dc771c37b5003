"""One run of an experiment: a workload, a migration in the middle of it, and what both ends say about it."""

import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from coat_ryu import latchkey
from mininet_scenarios.workloads import Outcome, Workload

REQUEST_TIMEOUT = 300.0
UNAUTHORIZED = 401
TOO_MANY_REQUESTS, LEAST_PAUSE = 429, 0.1
"""What the controller answers who asks too often (RFC 6585, section 4), and the seconds until it is asked again."""


class Refused(Exception):
    """The controller answered with an error; ``answer`` is its JSON."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__(f"{status}: {answer}")
        self.status = status
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Controller:
    """The REST API at ``base``, with its own token where it asks for one. Methods answer its JSON; they raise
    Refused.
    """

    base: str

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers: dict[str, str] = {}
        give_up = time.monotonic() + REQUEST_TIMEOUT
        while True:
            try:
                request = Request(self.base + path, data=data, method=method, headers=headers)
                with urlopen(request, timeout=REQUEST_TIMEOUT) as response:
                    text = response.read()
                return json.loads(text) if text else None
            except HTTPError as error:
                answer = json.loads(error.read() or b"null")
                if error.code == UNAUTHORIZED and not headers:
                    token = latchkey.offered(self.base, error.headers.get("WWW-Authenticate", ""))
                    if token:
                        headers["Authorization"] = f"Bearer {token}"
                        continue
                if error.code != TOO_MANY_REQUESTS or time.monotonic() > give_up:
                    raise Refused(error.code, answer) from None
                time.sleep(max(LEAST_PAUSE, float(error.headers.get("Retry-After", 0))))

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self.call("POST", path, body)

    def migrate(self, container: str, to: str, **options: Any) -> dict[str, Any]:
        """The finished record."""
        record: dict[str, Any] = self.post("/migrate", {"container": container, "to": to, "wait": True, **options})
        return record

    def where(self, container: str) -> str:
        return str(self.get(f"/v1.0/containers/{container}")["node"])


@dataclass
class Run:
    """What came of one run: the client's side and the controller's records of the migrations in it."""

    workload: str
    outcome: Outcome
    migrations: list[dict[str, Any]]
    started_at: float
    too_late: bool

    @property
    def good(self) -> bool:
        moved = all(record["state"] == "succeeded" for record in self.migrations)
        whole = not self.too_late and self.outcome.resumed and self.outcome.lost_bytes == 0
        return moved and whole and self.outcome.resets == 0 and self.outcome.reconnects == 0

    @property
    def trouble(self) -> str | None:
        """Why it is not good, in words."""
        if self.too_late:
            return "the client had ended before the migration did"
        refused = next((record["error"]["message"] for record in self.migrations if record["error"]), None)
        return refused or self.outcome.trouble

    def as_json(self) -> dict[str, Any]:
        """The run for ``per_run`` of a summary (contract, "Experiment results")."""
        outcome = self.outcome
        return {
            "workload": self.workload,
            "resumed": outcome.resumed,
            "lost_bytes": outcome.lost_bytes,
            "resets": outcome.resets,
            "reconnects": outcome.reconnects,
            "disruption_s": None if outcome.trouble else outcome.disruption.seconds,
            "trouble": self.trouble,
            **outcome.detail,
            "migrations": self.migrations,
        }


def run(
    controller: Controller,
    workload: Workload,
    hosts: tuple[str, str],
    *,
    moved: str | None = None,
    before: float = 3.0,
    times: int = 1,
    between: float = 1.0,
    **options: Any,
) -> Run:
    """Starts the workload, waits, moves ``moved`` (or else its server) to the other host, ``times`` times, waits."""
    container = moved or workload.server
    records = []
    started_at = time.time()
    workload.start()
    try:
        time.sleep(workload.begins_in() + before)
        for turn in range(times):
            if turn:
                time.sleep(between)
            to = hosts[1] if controller.where(container) == hosts[0] else hosts[0]
            records.append(controller.migrate(container, to, **options))
        too_late = workload.over()  # then the last migration proves nothing
        return Run(workload.name, workload.finish(), records, started_at, too_late)
    finally:
        workload.stop()
