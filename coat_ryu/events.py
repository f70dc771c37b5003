"""What Ryu tells an application whose switches are a ``Fabric``'s, handed on to it. None of the handlers blocks."""

from typing import Any

from ryu.base import app_manager
from ryu.controller import ofp_event
from ryu.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from ryu.ofproto import ofproto_v1_3

from coat_ryu.fabric import Fabric


class FabricApp(app_manager.RyuApp):  # type: ignore[misc]
    """Base of a Ryu application that sets ``fabric`` before it starts."""

    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]
    fabric: Fabric

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])
    def on_state(self, event: Any) -> None:
        self.fabric.on_state(event)

    @set_ev_cls(ofp_event.EventOFPPortStatus, MAIN_DISPATCHER)
    def on_port(self, event: Any) -> None:
        self.fabric.on_port(event)

    @set_ev_cls(ofp_event.EventOFPFlowRemoved, MAIN_DISPATCHER)
    def on_flow_removed(self, event: Any) -> None:
        self.fabric.on_flow_removed(event)

    @set_ev_cls(ofp_event.EventOFPPacketIn, MAIN_DISPATCHER)
    def on_packet_in(self, event: Any) -> None:
        self.fabric.on_packet_in(event)

    @set_ev_cls(
        [
            ofp_event.EventOFPBarrierReply,
            ofp_event.EventOFPErrorMsg,
            ofp_event.EventOFPFlowStatsReply,
            ofp_event.EventOFPExperimenter,
            ofp_event.EventOFPPortDescStatsReply,
        ],
        MAIN_DISPATCHER,
    )
    def on_reply(self, event: Any) -> None:
        self.fabric.on_reply(event)
