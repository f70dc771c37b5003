"""Open files whose names are gone move, with their content and with what other names they have."""

from typing import Any

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import EDGES, wait_for
from tests.names import ASK, LEFT, NAMES, WHOLE


def test_files_without_a_name_move_and_nothing_is_left(lab: Lab, controller: Controller, made: Any) -> None:
    made("names", EDGES[0], "python", "python3", "-c", NAMES)

    def ask() -> str:
        argv = ["nsenter", "--net=/run/netns/coat-names", "python3", "-c", ASK]
        return lab.exec(controller.where("names"), argv, check=False).stdout.strip()

    wait_for(ask, what="the program")
    record = controller.migrate("names", EDGES[1])
    assert (record["state"], record["error"]) == ("succeeded", None)
    assert ask() == WHOLE
    assert [lab.exec(host, LEFT).stdout for host in EDGES] == ["", ""]
