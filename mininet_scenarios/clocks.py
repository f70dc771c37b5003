"""Clocks that are set while a migration goes on.

Hosts of a lab share the kernel's clock. So it is set for the product's processes alone, inside of them: Python runs
``CLOCKWORK`` before anything else, and what a file says is added to the time of day.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab

FILE = "/run/coat-clock"
CLOCKWORK = """\
import time
def set_by(path, real=time.time):
    def now():
        try:
            with open(path) as file:
                return real() + float(file.read() or 0)
        except (OSError, ValueError):
            return real()
    time.time = now
set_by({path!r})
"""
LONGEST = 180.0
"""Seconds that nothing of a migration lasts."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Of one lab's controller, and of the hooks on its hosts."""

    lab: Lab

    def install(self, hosts: Sequence[str]) -> None:
        """Once a lab: the controller and the hooks are started anew for it."""
        file = self.lab.folder / "site" / "sitecustomize.py"
        if file.exists():
            return
        for host in hosts:
            script = 'folder=$(python3 -c "import site; print(site.getsitepackages()[0])") && mkdir -p "$folder" && '
            script += 'cat >"$folder/coat_clock.py" && echo "import coat_clock" >"$folder/coat_clock.pth"'
            self.lab.exec(host, ["sh", "-c", script], input=CLOCKWORK.format(path=FILE))
        file.parent.mkdir()
        file.write_text(CLOCKWORK.format(path=str(self.lab.folder / "clock")))
        self.lab.kill_controller()
        self.lab.start_controller()

    def set(self, host: str | None, seconds: float) -> None:
        """How far a host's clock, or the controller's (None), is ahead of the kernel's from now on."""
        if host is None:
            (self.lab.folder / "clock").write_text(f"{seconds}")
        else:
            self.lab.exec(host, ["sh", "-c", 'echo "$1" >"$0"', FILE, f"{seconds}"])

    def clear(self, host: str) -> None:
        """The host's and the controller's are right again."""
        self.lab.exec(host, ["rm", "-f", FILE])
        (self.lab.folder / "clock").unlink(missing_ok=True)

    def ahead(self, host: str | None) -> float:
        """Seconds, as the product sees it: a program like the hook, or the controller.

        The controller says how far nodes are from its time of day, and their clocks run evenly from when hooks began.
        """
        if host is not None:
            said = self.lab.exec(host, ["python3", "-I", "-c", "import time; print(time.time())"]).stdout
            return float(said) - time.time()
        offsets = [node["ssh"]["clock_offset_s"] for node in Controller(self.lab.rest).get("/v1.0/nodes")]
        return float(next(offset for offset in offsets if offset is not None))


def uneven(record: dict[str, Any]) -> Iterator[str]:
    """Times that no migration can have: a clock that was set has got into them."""
    times = {f"{step['name']} took": step["duration_s"] for step in record["steps"]}
    times |= {"it took": record.get("duration_s"), "it was frozen for": record.get("downtime_s")}
    for what, seconds in times.items():
        if seconds is not None and not -1 < seconds < LONGEST:
            yield f"{what} {seconds} s"
