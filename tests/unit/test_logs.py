"""Log lines know their migration, whichever thread or greenlet writes them."""

import io
import json
import logging
import subprocess
import sys
import textwrap

from coat_ryu import logs
from coat_ryu.logs import MIGRATION
from coat_ryu.moves import Ahead


def a_logger(kind: str) -> tuple[logging.Logger, list[str]]:
    logger = logging.Logger("test", logging.INFO)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    logs.configure(kind, logger)
    return logger, lines


def test_text_names_the_migration_and_only_where_there_is_one() -> None:
    logger, lines = a_logger("text")
    logger.info("before")
    token = MIGRATION.set("m1")
    logger.info("%s", "within")
    MIGRATION.reset(token)
    assert lines[0].endswith("INFO test: before")
    assert lines[1].endswith("INFO test [m1]: within")


def test_json_is_one_object_a_line() -> None:
    logger, lines = a_logger("json")
    token = MIGRATION.set("m1")
    try:
        raise ValueError("with\nlines")
    except ValueError:
        logger.exception("bad %s", 'thing "x"')
    MIGRATION.reset(token)
    (line,) = lines
    assert "\n" not in line
    record = json.loads(line)
    assert (record["level"], record["migration"], record["message"]) == ("error", "m1", 'bad thing "x"')
    assert "ValueError: with" in record["exception"]
    assert record["at"].endswith("Z")


def test_work_that_runs_beside_a_migration_belongs_to_it() -> None:
    token = MIGRATION.set("m1")
    seen = Ahead(MIGRATION.get).result()
    MIGRATION.reset(token)
    assert seen == "m1"


GREEN = """
    import eventlet
    eventlet.monkey_patch()
    import threading, time
    from coat_ryu.logs import MIGRATION
    from coat_ryu.moves import Ahead

    seen = []

    def migration(name):
        MIGRATION.set(name)
        for _ in range(20):
            time.sleep(0.001)
            seen.append((name, MIGRATION.get(), Ahead(MIGRATION.get).result()))

    threads = [threading.Thread(target=migration, args=(f"m{number}",)) for number in range(10)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(seen) == 200 and MIGRATION.get() is None
    assert all(name == own == beside for name, own, beside in seen), seen
"""


def test_greenlets_do_not_mix_their_migrations_up() -> None:
    """As under ryu-manager, where every thread is a greenlet of one."""
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(GREEN)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_message_is_one_line_whoever_has_worded_it() -> None:
    """A name with a line break in it would forge the next line; an escape sequence is for the terminal."""
    stream = io.StringIO()
    logger = logging.Logger("forged")
    logger.addHandler(logging.StreamHandler(stream))
    logs.configure("text", logger)
    logger.info("node %s is down", "a\n2026-01-01 INFO admin: all is well\x1b[2J")
    assert stream.getvalue().count("\n") == 1 and "\x1b" not in stream.getvalue()
    try:
        raise ValueError("here")
    except ValueError:
        logger.exception("it failed")
    assert stream.getvalue().count("\n") > 3
