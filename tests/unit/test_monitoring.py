"""The dashboard and the alert rules speak of metrics that exist."""

import json
import re
from pathlib import Path

import pytest
import yaml

from coat_ryu.metrics import Metrics
from coat_ryu.saga import Migration, StepRecord

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


def exposed() -> dict[str, set[str]]:
    """Name of each metric to the labels that its samples can have."""
    metrics = Metrics()
    switch = {"connected": True, "flows_installed": 1, "flows_wanted": 1, "denied_packets": 0}
    metrics.look({"a": (True, switch)}, topology_failed=False, readers=0)
    step = StepRecord(name="restore", node="a", started_at="", duration_s=0.1)
    record = Migration(id="m", container="c", source="a", destination="b", mode="prepared", mac="keep", started_at="")
    metrics.count(record.model_copy(update={"state": "succeeded", "steps": [step], "downtime_s": 0.2}))
    found: dict[str, set[str]] = {}
    for line in metrics.text().decode().splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})?", line).groups()  # type: ignore[union-attr]
            found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels or ""))
    return found


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/coat.json").read_text())
    rules = yaml.safe_load((DEPLOY / "prometheus/coat.rules.yaml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return asked + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_is_there(expression: str) -> None:
    names = set(re.findall(r"\bcoat_\w+", expression))
    assert names or expression.startswith("up{")
    assert names <= exposed().keys()
    by = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
    known = {label for name in names for label in exposed()[name]} | {"job"}
    assert by <= known
