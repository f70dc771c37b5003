"""Twenty migrations under one connection: every byte comes back, and nothing grows."""

from mininet_scenarios.lab import Lab
from mininet_scenarios.soak import WATCHED, good, soak


def test_one_connection_is_carried_through_twenty_migrations(lab: Lab) -> None:
    result = soak(lab, 20, print)
    assert good(result), {key: value for key, value in result.items() if key != "per_run"}
    assert result["resumed"] == 20
    for name in WATCHED:
        assert result[f"{name}_last_tenth_over_second"] < 1.1, (name, [row[name] for row in result["per_run"]])
