"""``report.md``: our figures beside the paper's and MOSE's, by the paper's own numbers, and what differs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mininet_scenarios.measure import summary
from mininet_scenarios.paper import authors, table
from mininet_scenarios.paper.authors import STEPS, TABLE_I, WORKLOADS, Authors
from mininet_scenarios.paper.trial import MODES

Rows = Sequence[dict[str, Any]]
APART = {"without_coat": ("baseline",), "remote_control": ("control-sockperf", "control-iperf3")}
"""Runs whose connection is not meant to go on, and runs that have none."""
TESTBEDS = """\
| | the paper | here |
| --- | --- | --- |
| hosts | three virtual machines in a cloud, Intel Xeon Skylake | three network namespaces with their own processes, mounts and Open vSwitch on one machine: no network card between them |
| link settings | `tc` on each machine's interface: 20, 2 and 2 ms; 100, 500 and 500 Mbit/s of outgoing traffic | the same values, measured before each campaign (below) |
| migration | Podman with an archive, `scp`, all steps one after the other | Podman without an archive, TLS from host to host; `sequential` is the paper's order, `parallel` its proposal, `prepared` ours |
| control | a script on the end device, one SSH login a command, over the delayed link | a controller with one open channel to each host, over the source's delay, not the device's |
| packets during the freeze | lost; TCP sends again | held at the destination, delivered in order |
| processors | one machine each | shared by the hosts, the clients and the controller |

A faster machine makes checkpoint and restore shorter and says nothing about a design. Shares, and what waits for a
person's or a timer's patience, compare better than seconds do."""


def report(result: dict[str, Any], theirs: dict[str, Authors], titles: dict[str, str]) -> Iterator[str]:
    """The lines of the report."""
    rows = [row for part in (result, *(result[what] for what in APART)) for row in part["per_run"]]
    of = {name: [row for row in rows if row["experiment"] == name] for name in titles}
    yield "# The paper, reproduced\n"
    yield from _summary(result)
    yield "## What differs in the testbeds\n\n" + TESTBEDS + "\n"
    yield from _links(result["environment"])
    yield from _table_i(result, theirs)
    yield from _figures(result, theirs, of)
    yield from _baseline(of["baseline"])
    yield from _worth(of, titles)
    yield from _client_side(of)
    yield from _beyond(of)
    yield from _all(rows, of, titles)


def _summary(result: dict[str, Any]) -> Iterator[str]:
    environment = result["environment"]
    yield (
        'Y. Yu, A. Calagna, P. Giaccone, C. F. Chiasserini, "TCP Connection Management for Stateful Container Migration '
        'at the Network Edge", IEEE MedComNet 2023. Made by `make paper'
        f" RUNS={environment.get('runs_asked')}` at {environment.get('finished_at')}; every run is a line of `runs.csv`.\n"
        "Means are over the runs, with the 90 % confidence interval, as in the paper.\n"
    )
    yield (
        f"**{result['resumed']} of {result['runs']}** connections went on, {result['lost_bytes']} bytes were lost, "
        f"{result['resets']} connections were reset or made anew.\n"
    )
    shown = {name: value for name, value in environment.items() if isinstance(value, (str, int, float))}
    yield "\n".join(f"- {name}: {value}" for name, value in shown.items()) + "\n"


def _links(environment: dict[str, Any]) -> Iterator[str]:
    yield "## Links, measured before the runs\n"
    yield "| setting | between | asked | measured | |\n| --- | --- | --- | --- | --- |"
    for setting, checks in environment["links"].items():
        for check in checks:
            verdict = "" if check["good"] else "**too far off**"
            ends, unit = " and ".join(check["hosts"]), check["unit"]
            yield f"| {setting} | {ends} | {check['asked']:g} {unit} | {check['measured']:.2f} {unit} | {verdict} |"
    yield "\nRound trips must be within 5 %, rates (one TCP connection, payload) within 10 %.\n"


def _table_i(result: dict[str, Any], theirs: dict[str, Authors]) -> Iterator[str]:
    yield "## Table I: performance\n"
    for workload in WORKLOADS:
        modes, mine = result["metrics"][workload]["modes"], theirs[workload]
        published, again = TABLE_I[workload], authors.table(mine)
        yield f"### {workload}\n"
        yield "| | the paper | its logs | " + " | ".join(f"`{mode}`" for mode in MODES) + " |"
        yield "| --- | " + "--- | " * (2 + len(MODES))
        for name, title in table.ROWS.items():
            share = name.endswith("share")
            cells = [_value(getattr(published, name), share), _value(getattr(again, name), share)]
            yield f"| {title} | " + " | ".join([*cells, *(_told(modes[mode][name], share) for mode in MODES)]) + " |"
        yield _resumed_row(mine, modes)
        yield "| Frozen (downtime) | | | " + " | ".join(_told(modes[mode]["downtime_s"]) for mode in MODES) + " |"
        mose = authors.MOSE_DISRUPTION_S[workload]
        yield f"\nMOSE (same authors, 2025) has a downtime of {mose:g} s. Logs: {mine.source}.\n"
        yield from _verdict(workload, modes)
    yield (
        "The remote control's share is of the disruption, COAT's of the COAT duration: so come the paper's 47.16 and "
        "13.67 % about. Ours count more: the checkpoint's remote control too, which the paper leaves out. Within our "
        "checkpoint the frozen container waits at a gate until the switches have turned its packets to the hold; the last "
        "row counts that wait as COAT's.\n"
    )


def _resumed_row(theirs: Authors, modes: dict[str, Any]) -> str:
    ours = " | ".join(f"{modes[mode]['resumed']} of {modes[mode]['runs']}" for mode in MODES)
    paper = f"{theirs.kept} of {theirs.runs} kept"
    return f"| Connections that went on | {paper} | {theirs.resumed} of {theirs.runs} | {ours} |"


def _verdict(workload: str, modes: dict[str, Any]) -> Iterator[str]:
    published = TABLE_I[workload]
    worse = [
        f"`{mode}`: {title} {_told(modes[mode][name], name.endswith('share'))}"
        for mode in MODES
        for name, title in table.ROWS.items()
        if (mean := modes[mode][name]["mean"]) is not None and mean >= getattr(published, name)
    ]
    if not any(modes[mode]["runs"] for mode in MODES):
        yield "Not run.\n"
    elif worse:
        yield "**Not below the paper's:** " + "; ".join(worse) + ".\n"
    else:
        yield "Every row, both shares among them, is below the paper's in all modes.\n"


def _figures(result: dict[str, Any], theirs: dict[str, Authors], of: Mapping[str, Rows]) -> Iterator[str]:
    yield "## Fig. 5: round trips around a migration\n\n![Fig. 5](fig5-rtt.png)\n"
    yield _before_after(
        of["latency"], "rtt", "ms", "The round trip", "23.4 ms before and 5 to 6 ms after in the paper's logs"
    )
    yield "## Fig. 6: throughput around a migration\n\n![Fig. 6](fig6-throughput.png)\n"
    rate = "98 Mbit/s before and 476 Mbit/s after in the paper's logs"
    yield _before_after(of["throughput"], "rate", "mbit_s", "The throughput", rate)
    yield "## Fig. 7: what remote control adds\n\n![Fig. 7](fig7-remote-control.png)\n"
    yield from _control([*of["control-sockperf"], *of["control-iperf3"]], theirs)
    yield "## Fig. 8: each step's own duration\n\n![Fig. 8](fig8-breakdown.png)\n"
    for workload in WORKLOADS:
        yield from _breakdown(workload, result["metrics"][workload]["modes"], theirs[workload])


def _before_after(rows: Rows, name: str, unit: str, what: str, paper: str) -> str:
    before, after = (
        summary(row[f"{name}_{when}_{unit}"] for row in rows if row.get(f"{name}_{when}_{unit}"))
        for when in ("before", "after")
    )
    shown = unit.replace("mbit_s", "Mbit/s")
    return f"{what}: {_plain(before)} {shown} before, {_plain(after)} {shown} after; {paper}.\n"


def _control(rows: Rows, theirs: dict[str, Authors]) -> Iterator[str]:
    yield "Milliseconds added to each step. The login runs `true` where the paper's script ran the step's command; all three ways were measured in the same runs.\n"
    yield "| workload | step | the paper's SSH | SSH login | open channel | told ahead |\n| --- | --- | --- | --- | --- | --- |"
    for workload in WORKLOADS:
        mine = [row for row in rows if row["workload"] == workload and "login_s" in row]
        for step in STEPS:
            paper = theirs[workload].ssh_s.get(step)
            cells = [_ms(summary(row[way].get(step) for row in mine)) for way in ("login_s", "channel_s", "ahead_s")]
            yield (
                f"| {workload} | {step} | {'local' if paper is None else f'{paper * 1e3:.0f}'} | "
                + " | ".join(cells)
                + " |"
            )
    yield ""


def _breakdown(workload: str, modes: dict[str, Any], theirs: Authors) -> Iterator[str]:
    yield f"{workload}, seconds:\n"
    yield "| step | the paper | " + " | ".join(f"`{mode}`" for mode in MODES) + " |\n| --- | --- | --- | --- | --- |"
    for step in STEPS:
        ours = " | ".join(_told(modes[mode]["steps"][step]["own_s"]) for mode in MODES)
        yield f"| {step} | {theirs.own_s[step]:.3f} s | {ours} |"
    low, high = authors.MOSE_FLOW_UPDATE_S
    yield f"\nIn `prepared`, clear, create and flow update are outside the freeze. MOSE's flow update: {low * 1e3:g} to {high * 1e3:g} ms.\n"


def _baseline(rows: Rows) -> Iterator[str]:
    yield "## Without COAT\n"
    yield "Podman alone, no overlay, the destination's own address. The client's connection in each run:\n"
    yield "| run | went on | the client said | the restore said | a new connection to the new address |\n| --- | --- | --- | --- | --- |"
    for row in rows:
        error = _one_line((row.get("restore_error") or "restored").splitlines()[-1])
        works = "works" if row.get("new_connection_works") else "fails"
        yield f"| {row['key']} | {'yes' if row['resumed'] else '**no**'} | {_one_line(row['trouble'] or '')} | {error} | {works} |"
    yield ""


def _worth(of: Mapping[str, Rows], titles: dict[str, str]) -> Iterator[str]:
    yield "## What each addition is worth\n"
    yield "Mode `prepared`. Disruption less downtime is what the network adds to the freeze.\n"
    yield "| | workload | went on | disruption | disruption less downtime | next longest silence | after it |\n| --- | --- | --- | --- | --- | --- | --- |"
    for name in ("latency", "throughput"):
        yield from _worth_rows("with all of it", [row for row in of[name] if row.get("mode") == "prepared"])
    for name in (
        "whole",
        "new-mac-latency",
        "new-mac-throughput",
        "no-hold-latency",
        "no-hold-throughput",
        "no-repair",
    ):
        yield from _worth_rows(titles[name], of[name])
    yield ""


def _worth_rows(title: str, rows: Rows) -> Iterator[str]:
    for workload in dict.fromkeys(row["workload"] for row in rows):
        mine = [row for row in rows if row["workload"] == workload]
        good = table.usable(mine)
        lag = summary(row["disruption_s"] - row["migrations"][0]["downtime_s"] for row in good)
        second = summary(silences[1] for row in good if len(silences := row.get("silences_s", [])) > 1)
        rate = summary(row["rate_after_mbit_s"] for row in good if row.get("rate_after_mbit_s"))
        trip = summary(row["rtt_after_ms"] for row in good if row.get("rtt_after_ms"))
        after = f"{_plain(rate)} Mbit/s" if rate["mean"] is not None else f"{_plain(trip)} ms"
        went = f"{sum(bool(row['resumed']) for row in mine)} of {len(mine)}"
        cells = [_told(summary(row["disruption_s"] for row in good)), _told(lag), _told(second), after]
        yield f"| {title} | {workload} | {went} | " + " | ".join(cells) + " |"


def _client_side(of: Mapping[str, Rows]) -> Iterator[str]:
    yield "## The client's side\n"
    yield "| moved | workload | went on | disruption | longest freeze |\n| --- | --- | --- | --- | --- |"
    for name in ("client-side-sockperf", "client-side-iperf3"):
        for moved in ("client", "both"):
            mine = [row for row in of[name] if row.get("moved") == moved]
            went = f"{sum(bool(row['resumed']) for row in mine)} of {len(mine)}"
            waited = _told(summary(row["disruption_s"] for row in mine if row.get("disruption_s")))
            frozen = summary(
                max(record["downtime_s"] or 0.0 for record in row["migrations"]) for row in mine if row["resumed"]
            )
            yield f"| {moved} | {name.removeprefix('client-side-')} | {went} | {waited} | {_told(frozen)} |"
    yield "\niperf3's client tells a silence of the server's in steps of 0.1 s. A client that is frozen itself finds what was held for it at once when it runs again, so that its own account of it is shorter than its freeze. When both move, each is frozen for a time of its own.\n"


def _beyond(of: Mapping[str, Rows]) -> Iterator[str]:
    yield "## Beyond the paper\n"
    hops = [seconds for row in of["follow"] for seconds in row.get("hop_disruption_s", [])]
    over = [seconds for row in of["follow"] for seconds in row.get("handover_s", [])]
    yield "### A service follows its device along six edge hosts\n\n![hops](follow.png)\n"
    yield (
        f"{len(of['follow'])} drives, {len(hops)} hops, each drive over one TCP connection that is checked byte by byte: "
        f"{_went(of['follow'])}. The client waited {_told(summary(hops))} at each hop; a handover between two edge hosts, "
        f"in which frames go on, took {_told(summary(over))} until all switches knew.\n"
    )
    yield "### A chain of three services whose middle one moves\n"
    yield "| mode | connections that went on | disruption |\n| --- | --- | --- |"
    for mode in MODES:
        mine = [row for row in of["chain"] if row.get("mode") == mode]
        yield f"| `{mode}` | {_went(mine)} | {_told(summary(row['disruption_s'] for row in mine if row.get('disruption_s')))} |"
    yield "\n### Devices and services at random\n"
    for row in of["random-walk"]:
        records = row.get("migrations", [])
        yield (
            f"{row['took_s']:.0f} s with the seed {row['key'].removeprefix('seed-')}: {len(records)} migrations, "
            f"{sum(record['state'] == 'succeeded' for record in records)} of them succeeded; {row.get('handovers')} handovers; "
            f"{row.get('bytes', 0)} bytes each way, {row['lost_bytes']} lost, {row.get('resets')} resets. "
            f"All connections went on: {'yes' if row['resumed'] else 'no'}. Downtime {_told(summary(record['downtime_s'] for record in records))}.\n"
        )


def _all(rows: Rows, of: Mapping[str, Rows], titles: dict[str, str]) -> Iterator[str]:
    yield "## Every experiment\n\n| experiment | runs | went on | lost bytes |\n| --- | --- | --- | --- |"
    for name, title in titles.items():
        mine = of[name]
        yield f"| {title} (`{name}`) | {len(mine)} | {'-' if name in APART['remote_control'] else _went(mine)} | {sum(row['lost_bytes'] for row in mine)} |"
    troubles = [row for row in rows if row["trouble"] and row["experiment"] not in APART["without_coat"]]
    if troubles:
        yield "\nRuns that did not go as they should:\n"
        yield from (f"- `{row['experiment']}` {row['key']}: {_one_line(row['trouble'])}" for row in troubles)
    yield ""


def _went(rows: Rows) -> str:
    return f"{sum(bool(row['resumed']) for row in rows)} of {len(rows)}"


def _value(number: float, share: bool) -> str:
    return f"{number * 100:.2f} %" if share else f"{number:.2f} s"


def _told(told: dict[str, Any], share: bool = False) -> str:
    """Mean and half of the confidence interval."""
    if told["mean"] is None:
        return "-"
    scale, unit, digits = (100, " %", 2) if share else (1, " s", 3)
    half = "" if told["ci90"] is None else f" ± {told['ci90'] * scale:.{digits}f}"
    return f"{told['mean'] * scale:.{digits}f}{half}{unit}"


def _ms(told: dict[str, Any]) -> str:
    return "-" if told["mean"] is None else f"{told['mean'] * 1e3:.2f} ± {(told['ci90'] or 0) * 1e3:.2f}"


def _plain(told: dict[str, Any]) -> str:
    return "-" if told["mean"] is None else f"{told['mean']:.1f} ± {told['ci90'] or 0:.1f}"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:160]
