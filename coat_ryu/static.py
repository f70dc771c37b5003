"""The page at /ui: files that are read once and are answered as they are."""

import functools
from pathlib import Path

from coat_ryu.answers import Answer, Asked
from coat_ryu.errors import NotFound

FOLDER = Path(__file__).with_name("ui")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # A browser that knows it refuses innerHTML and its like, so that no name can ever become markup.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


@functools.cache
def _files() -> dict[str, Answer]:
    """By name. What is asked for is looked up here and never made a path of."""
    found = {}
    for file in sorted(FOLDER.iterdir()):
        headers = {
            "Content-Type": f"{KINDS[file.suffix]}; charset=utf-8",
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
        }
        found[file.name] = Answer(200, file.read_bytes(), headers)
    return found


def get_page(*_: object) -> Answer:
    return _files()["index.html"]


def get_file(_: object, asked: Asked) -> Answer:
    name = asked.path["file"]
    if name not in _files():
        raise NotFound(f"there is nothing at /ui/{name}", cause="no_such_path")
    return _files()[name]
