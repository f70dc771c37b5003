"""What a scenario needs of the hosts it runs on: ``lab.Lab`` has it, and ``hosts.Hosts``, for real ones."""

import subprocess
from collections.abc import Sequence
from typing import Any, Protocol


class Place(Protocol):
    """Hosts with a controller. ``exec`` raises CalledProcessError unless ``check=False``, and TimeoutExpired."""

    @property
    def rest(self) -> str:
        """The base URL of the controller's REST API, without a slash at the end."""

    @property
    def hosts(self) -> list[str]:
        """The hosts' names."""

    def address(self, host: str) -> str:
        """The host's on the underlay."""

    def exec(
        self, host: str, argv: Sequence[str], *, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host and waits."""

    def popen(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a command on a host, which ends when the process here does."""

    def beside_controller(self, argv: Sequence[str]) -> list[str]:
        """A command of this machine that runs where the controller runs, in its network."""

    def login(self, host: str) -> dict[str, Any]:
        """How the controller logs in there: the fields of ``coat_ryu.ssh.Login``."""
