"""Log lines: text or JSON, and on each that belongs to a migration the migration's id.

The id is a context variable. A greenlet has a context of its own and begins with an empty one, as a thread does, so
whoever starts a thread for a migration hands the context on (``moves.Ahead``).
"""

import json
import logging
from contextvars import ContextVar
from typing import Any

from coat_ryu.node.failure import printable
from coat_ryu.saga import timestamp

MIGRATION: ContextVar[str | None] = ContextVar("migration", default=None)

TEXT = "%(asctime)s %(levelname)s %(name)s%(belongs)s: %(message)s"


def configure(kind: str, root: logging.Logger | None = None) -> None:
    """Makes every handler of the root logger write ``text`` or ``json``."""
    for handler in (root or logging.getLogger()).handlers:
        handler.addFilter(_mark)
        handler.setFormatter(Json() if kind == "json" else Text(TEXT))


def _mark(record: logging.LogRecord) -> bool:
    found = MIGRATION.get()
    record.migration, record.belongs = found, f" [{found}]" if found else ""
    return True


class Text(logging.Formatter):
    """A line each, whoever has worded the message; an exception's own lines follow it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # the library's name
        return printable(super().formatMessage(record))


class Json(logging.Formatter):
    """One object a line: ``at``, ``level``, ``logger``, ``message``, and ``migration`` and ``exception`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "migration", None):
            line["migration"] = record.migration  # type: ignore[attr-defined]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
