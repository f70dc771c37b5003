"""The controller of ``make bench-overlay``: coat_ryu's fabric in a real ryu-manager, and a few calls that time it.

Nodes without hosts behind them have no SSH, so this is not ``coat_ryu.app``; its handlers for OpenFlow are the same.
REST is Ryu's own server, in the same event loop: an answer to ``GET /healthz`` that is late is late for every reason
that counts.
"""

import gc
import json
import os
import pickle
import time
from typing import Any

from ryu.app.wsgi import ControllerBase, Response, WSGIApplication, route

from coat_ryu.events import FabricApp
from coat_ryu.fabric import Fabric

SETUP = "COAT_BENCH_SETUP"
SETTLE_TIMEOUT = 300.0
CUT_OVER_TIMEOUT = 30.0


class BenchApp(FabricApp):
    _CONTEXTS = {"wsgi": WSGIApplication}

    def __init__(self, *args: Any, wsgi: WSGIApplication, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with open(os.environ[SETUP], "rb") as file:
            topology, bindings = pickle.load(file)
        self.fabric = Fabric(topology, audit_interval=3600.0)
        self.nodes = [node.name for node in topology.nodes]
        for binding in bindings:
            self.fabric.bind(binding)
        wsgi.register(BenchController, {"app": self})

    def start(self) -> Any:
        gc.freeze()  # what the imports made lives for ever: not to be looked at in every collection
        self.fabric.start()
        return super().start()

    def close(self) -> None:
        self.fabric.stop()


class BenchController(ControllerBase):  # type: ignore[misc]
    def __init__(self, request: Any, link: Any, data: dict[str, Any], **config: Any) -> None:
        super().__init__(request, link, data, **config)
        self._app: BenchApp = data["app"]

    @route("bench", "/healthz", methods=["GET"])
    def health(self, request: Any, **_: Any) -> Response:
        connected = sum(self._app.fabric.board.connected(node) for node in self._app.nodes)
        return _json({"status": "ok", "connected": connected})

    @route("bench", "/resync", methods=["POST"])
    def resync(self, request: Any, **_: Any) -> Response:
        """From "all bindings are known" to "every switch has confirmed all its flows"."""
        started = time.monotonic()
        self._app.fabric.ready()
        self._app.fabric.settle(self._app.nodes, SETTLE_TIMEOUT)
        seconds = time.monotonic() - started
        installed = sum(self._app.fabric.node_status(node)["flows_installed"] for node in self._app.nodes)
        return _json({"seconds": seconds, "flows": installed})

    @route("bench", "/cut_over", methods=["POST"])
    def cut_over(self, request: Any, **_: Any) -> Response:
        """One cut-over, timed; then, untimed, until the last switch has followed."""
        binding = pickle.loads(request.body)
        started = time.monotonic()
        self._app.fabric.cut_over(binding, CUT_OVER_TIMEOUT)
        seconds = time.monotonic() - started
        self._app.fabric.settle(self._app.nodes, SETTLE_TIMEOUT)
        return _json({"seconds": seconds, "all_after": time.monotonic() - started})


def _json(value: object) -> Response:
    return Response(content_type="application/json", charset="UTF-8", text=json.dumps(value))
