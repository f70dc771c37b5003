import subprocess
import sys
from types import ModuleType

from coat_ryu import _compat

LOADED = "import sys, coat_ryu._compat; print('eventlet' in sys.modules)"
REPAIRED = "import eventlet.wsgi as w; print(w.ALREADY_HANDLED, w.__spec__.origin == w.__file__)"
SOURCE = "import eventlet.wsgi as w, inspect; print(inspect.getsource(w) == open(w.__file__).read())"


def python(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_missing_name_is_an_empty_iterable() -> None:
    wsgi = ModuleType("eventlet.wsgi")
    _compat.restore(wsgi)
    assert wsgi.ALREADY_HANDLED == []


def test_a_name_that_is_there_stays() -> None:
    wsgi = ModuleType("eventlet.wsgi")
    wsgi.ALREADY_HANDLED = theirs = object()  # type: ignore[attr-defined]
    _compat.restore(wsgi)
    assert wsgi.ALREADY_HANDLED is theirs


def test_installing_twice_adds_one_hook() -> None:
    _compat.install()
    before = list(sys.meta_path)
    _compat.install()
    assert sys.meta_path == before


def test_eventlet_is_not_loaded_by_the_hook() -> None:
    assert python(LOADED) == "False\n"


def test_eventlet_is_repaired_when_it_is_imported() -> None:
    assert python(REPAIRED) == "[] True\n"


def test_the_repaired_module_still_has_its_source() -> None:
    assert python(SOURCE) == "True\n"
