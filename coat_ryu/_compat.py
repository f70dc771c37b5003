"""The one place that knows that Ryu 4.34 and today's eventlet are out of step.

Ryu's ``ryu.app.wsgi`` imports ``eventlet.wsgi.ALREADY_HANDLED``, which eventlet removed in 0.30.3. ``coat_ryu.pth``
imports this module whenever Python starts, so that plain ``ryu-manager`` works as well: the name is put back at the
moment ``eventlet.wsgi`` is imported. Until then nothing of eventlet is loaded, and where it never is, a start of Python
pays for this small module alone. It needs nothing outside ``sys`` and ``importlib`` for that reason.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

TARGET = "eventlet.wsgi"


class _Loader:
    """Loads the module as its own loader would, then adds what Ryu misses."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)  # type: ignore[attr-defined]
        restore(module)


class _Finder:
    """First on ``sys.meta_path``, and interested in one module only."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != TARGET:
            return None
        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


def restore(wsgi: ModuleType) -> None:
    """Gives ``eventlet.wsgi`` its ``ALREADY_HANDLED`` back if it lacks one.

    Ryu answers with it when a WebSocket has taken the connection over. It has to be an empty iterable: eventlet
    iterates over it, and with None or an object() every WebSocket that closes logs an error 500.
    """
    if not hasattr(wsgi, "ALREADY_HANDLED"):
        wsgi.ALREADY_HANDLED = []  # type: ignore[attr-defined]


def install() -> None:
    """Puts the hook in place, or repairs at once where eventlet is loaded already. Calling it again changes nothing."""
    if TARGET in sys.modules:
        restore(sys.modules[TARGET])
    elif _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


install()
