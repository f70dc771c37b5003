"""Runs experiments, keeps each run in a file of its own as soon as it is over, and goes on where it was interrupted."""

import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from coat_ryu.errors import CoatError
from mininet_scenarios import report
from mininet_scenarios.experiment import Refused
from mininet_scenarios.lab import LabError
from mininet_scenarios.paper import links
from mininet_scenarios.paper.trial import Scene, Setting, Trial
from mininet_scenarios.place import Place

SETTING_UP = 30.0
"""Seconds to expect for bringing up hosts and measuring their links."""
GIVE_UP_AFTER = 3
"""Runs in a row that could not be made at all."""

Open = Callable[[Path, dict[str, str]], AbstractContextManager[Place]]
"""Brings up hosts for a topology file and options of the controller's."""


class CampaignFailed(Exception):
    """The campaign cannot start, or go on; the message is for a person."""


class Campaign:
    """``folder`` is where results go. ``correct`` says whether link delays are ours to set; ``unverified``, that links
    which are not as they should be are noted, and runs are made all the same.
    """

    def __init__(
        self,
        folder: Path,
        trials: Sequence[Trial],
        runs: int,
        open_place: Open,
        say: Callable[[str], None],
        *,
        correct: bool = True,
        unverified: bool = False,
    ) -> None:
        self._folder = folder
        self._trials = trials
        self._runs = runs
        self._open = open_place
        self._say = say
        self._correct = correct
        self._unverified = unverified
        self._took: dict[str, list[float]] = {}

    def file(self, trial: Trial, key: str) -> Path:
        return self._folder / "runs" / trial.name / f"{key}.json"

    def todo(self, trial: Trial) -> list[str]:
        return [key for key in trial.keys(self._runs) if not self.file(trial, key).exists()]

    def go(self) -> None:
        """Makes every run that is not there yet. Raises CampaignFailed, LabError, CoatError."""
        settings = dict.fromkeys(trial.setting for trial in self._trials)
        for setting in settings:
            mine = [trial for trial in self._trials if trial.setting == setting and self.todo(trial)]
            if mine:
                self._one_setting(setting, mine)

    def _one_setting(self, setting: Setting, trials: list[Trial]) -> None:
        with self._ready(setting) as place:
            write(self._folder / "environment.json", report.environment(place))
            scene, failures = Scene(place, self._say), 0
            for trial in trials:
                if missing := [host for host in trial.needs if host not in place.hosts]:
                    self._say(f"{trial.name}: left out, there is no {', '.join(missing)}")
                    continue
                for key in self.todo(trial):
                    row = self._one_run(scene, trial, key)
                    failures = failures + 1 if "failure" in row else 0
                    if failures == GIVE_UP_AFTER:
                        raise CampaignFailed(f"{failures} runs in a row could not be made: {row['failure']}")

    def _one_run(self, scene: Scene, trial: Trial, key: str) -> dict[str, Any]:
        began = time.monotonic()
        row: dict[str, Any]
        try:
            row = trial.run(scene, key)
        except (LabError, CoatError, Refused, RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or ""
            failure = f"{type(error).__name__}: {error} {said}".strip()
            row = {"workload": trial.name, "resumed": False, "lost_bytes": 0, "trouble": failure, "failure": failure}
        took = time.monotonic() - began
        self._took.setdefault(trial.name, []).append(took)
        row = {"experiment": trial.name, "key": key, "began_at": time.time() - took, "took_s": round(took, 2), **row}
        write(self.file(trial, key), row)
        self._say(f"{self._progress()}: {trial.name} {key}: {in_words(row)}")
        return row

    def _progress(self) -> str:
        keys = [(trial, key) for trial in self._trials for key in trial.keys(self._runs)]
        left = [trial for trial, key in keys if not self.file(trial, key).exists()]
        seconds = sum(self._expected(trial) for trial in left)
        seconds += SETTING_UP * len({trial.setting for trial in left[1:]} - {left[0].setting} if left else ())
        return f"{len(keys) - len(left)} of {len(keys)}, {math.ceil(seconds / 60)} min left"

    def _expected(self, trial: Trial) -> float:
        took = self._took.get(trial.name)
        return statistics.median(took) if took else trial.guess

    @contextmanager
    def _ready(self, setting: Setting) -> Iterator[Place]:
        """Hosts whose links were measured and are as they should be."""
        wanted = links.links_of(setting.topology)
        own = self._folder / "topologies" / setting.topology.name
        topology = own if own.exists() else setting.topology
        with self._open(topology, dict(setting.options)) as place:
            checks = links.verify(place, wanted, self._say)
            if not self._correct or all(check.good for check in checks if check.unit == "ms"):
                self._accept(setting, checks)
                yield place
                return
        links.corrected(topology, checks, own)
        self._say(f"links: again, with {own}")
        with self._open(own, dict(setting.options)) as place:
            self._accept(setting, links.verify(place, wanted, self._say))
            yield place

    def _accept(self, setting: Setting, checks: list[links.Check]) -> None:
        """Raises CampaignFailed unless all links are good, or need not be."""
        write(self._folder / "links" / f"{setting.name}.json", [check.as_json() for check in checks])
        bad = [str(check) for check in checks if not check.good]
        if bad and not self._unverified:
            raise CampaignFailed(
                f"{setting.topology.name}: the links are not as they should be, so nothing was measured:\n  "
                + "\n  ".join(bad)
                + "\nMake the machine quiet, or go on all the same with LINKS=any; the report will say so."
            )


def in_words(row: dict[str, Any]) -> str:
    if row["trouble"]:
        return str(row["trouble"]).strip().splitlines()[0][:140]
    waited = row.get("disruption_s")
    return "went on" if waited is None else f"went on, waited {waited * 1e3:.0f} ms"


def write(file: Path, content: Any) -> None:
    """As JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, default=str) + "\n")
    part.rename(file)


def rows(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Every run that was made, in the order of the experiments."""
    files = [file for name in names for file in sorted((folder / "runs" / name).glob("*.json"))]
    return [json.loads(file.read_text()) for file in files]
