"""Flow entries of a switch in the JSON shape of Ryu's ``ofctl_rest`` (GET /stats/flow), by Ryu's own functions."""

from typing import Any

from ryu.lib import ofctl_v1_3
from ryu.ofproto import ofproto_v1_3_parser

from coat_ryu.wire import Entry

_AS_THEY_ARE = (
    "priority",
    "cookie",
    "idle_timeout",
    "hard_timeout",
    "byte_count",
    "duration_sec",
    "duration_nsec",
    "packet_count",
    "length",
    "flags",
    "table_id",
)


def as_ofctl(entry: Entry) -> dict[str, Any]:
    stats = ofproto_v1_3_parser.OFPFlowStats.parser(entry.raw, 0)
    for instruction in stats.instructions:
        for action in getattr(instruction, "actions", ()):
            if isinstance(action, ofproto_v1_3_parser.NXActionRegLoad):
                # Ryu's ofctl_nicira_ext reads two attributes that the class has as one, and fails.
                action.ofs, action.nbits = action.ofs_nbits >> 6, (action.ofs_nbits & 0x3F) + 1
    shown = {name: getattr(stats, name) for name in _AS_THEY_ARE}
    shown["actions"] = ofctl_v1_3.actions_to_str(stats.instructions)
    shown["match"] = ofctl_v1_3.match_to_str(stats.match)
    return shown
