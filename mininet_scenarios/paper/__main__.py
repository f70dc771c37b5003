"""``make paper``: the paper's experiments and some beyond it, with figures and tables beside the paper's.

Each run is kept as soon as it is over, and a campaign that was interrupted goes on where it stopped. One that has come
to its end is put aside when the next begins.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from coat_ryu.errors import CoatError
from mininet_scenarios.hosts import Hosts
from mininet_scenarios.lab import Lab, LabError
from mininet_scenarios.paper import written
from mininet_scenarios.paper.baseline import Baseline
from mininet_scenarios.paper.campaign import Campaign, CampaignFailed
from mininet_scenarios.paper.chain import Chain
from mininet_scenarios.paper.client_side import client_sides
from mininet_scenarios.paper.control import controls
from mininet_scenarios.paper.follow import Follow
from mininet_scenarios.paper.latency import Latency
from mininet_scenarios.paper.random_walk import RandomWalk
from mininet_scenarios.paper.throughput import Throughput
from mininet_scenarios.paper.trial import Setting, Trial
from mininet_scenarios.paper.worth import variants
from mininet_scenarios.place import Place
from mininet_scenarios.rootfs import RootfsError

RESULTS, PUBLISHED = Path("results/paper"), Path("docs/paper")
RUNS = 50
FINISHED = "finished"
"""A file that is there when all runs that were asked for have been made."""


def trials(runs: int) -> list[Trial]:
    """All of them, in order."""
    main: list[Trial] = [Latency(), Throughput()]
    return [*main, *controls(), *client_sides(), Baseline(), Chain(), *variants(), Follow(), RandomWalk(runs)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [trial.name for trial in trials(1)]
    parser.add_argument("runs", type=int, nargs="?", default=RUNS, help=f"of each kind (default {RUNS}, as the paper)")
    parser.add_argument("--topology", type=Path, help="real hosts, in place of the lab")
    parser.add_argument("--only", default="", help=f"some of: {' '.join(names)}")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--logs", type=Path, default=written.default_logs(), help="the authors' logs")
    parser.add_argument("--links", choices=("right", "any"), default="right", help="any: go on with links that are off")
    parser.add_argument("--fresh", action="store_true", help="do not go on with an interrupted campaign")
    parser.add_argument("--report", action="store_true", help="only write the report anew")
    parser.add_argument("--publish", action="store_true", help=f"only copy the report to {PUBLISHED}")
    asked = parser.parse_args()
    unknown = set(asked.only.split()) - set(names)
    if asked.runs < 1 or unknown:
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}" if unknown else "at least one run")
    return asked


def chosen(asked: argparse.Namespace) -> list[Trial]:
    """The experiments to run; on real hosts with their topology file in place of the lab's."""
    wanted = asked.only.split()
    found = [trial for trial in trials(asked.runs) if not wanted or trial.name in wanted]
    if asked.topology:
        for trial in found:
            trial.setting = Setting(trial.setting.name, asked.topology, trial.setting.options)
    return found


def opener(asked: argparse.Namespace, say: Callable[[str], None]) -> Callable[..., AbstractContextManager[Place]]:
    def lab(topology: Path, options: dict[str, str]) -> AbstractContextManager[Place]:
        return Lab(topology, name="paper", options=options, progress=say)

    def hosts(topology: Path, options: dict[str, str]) -> AbstractContextManager[Place]:
        return Hosts(topology, options=options, progress=say)

    return hosts if asked.topology else lab


def put_aside(folder: Path, *, fresh: bool) -> None:
    """A campaign that is over, or not wanted, makes room; it is not thrown away."""
    if folder.exists() and (fresh or (folder / FINISHED).exists()):
        shutil.move(folder, folder.with_name(f"{folder.name}-until-{time.strftime('%Y%m%d-%H%M%S')}"))


def measure(asked: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Makes the runs that are missing. Raises SystemExit with what is in the way."""
    put_aside(asked.results, fresh=asked.fresh)
    campaign = Campaign(
        asked.results,
        chosen(asked),
        asked.runs,
        opener(asked, say),
        say,
        correct=asked.topology is None,
        unverified=asked.links == "any",
    )
    try:
        campaign.go()
        (asked.results / FINISHED).touch()
    except (LabError, CoatError, RootfsError, CampaignFailed) as error:
        sys.exit(f"paper: {error}")
    except KeyboardInterrupt:
        sys.exit("paper: interrupted; the same command goes on from here")


def main() -> None:
    asked = arguments()
    console = Console(stderr=True, highlight=False)
    if asked.publish:
        written.publish(asked.results, PUBLISHED)
        return
    if not asked.report:
        measure(asked, lambda line: console.print(line, markup=False, soft_wrap=True))
    summary = written.write_all(asked.results, trials(asked.runs), asked.logs, asked.runs)
    print(f"{summary['resumed']} of {summary['runs']} connections went on; {asked.results}/report.md")
    rows = [*summary["per_run"], *summary["remote_control"]["per_run"]]
    if troubles := [f"{row['experiment']} {row['key']}: {row['trouble']}" for row in rows if row["trouble"]]:
        sys.exit("paper: not every connection went on:\n" + "\n".join(troubles))


if __name__ == "__main__":
    main()
