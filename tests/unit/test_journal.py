"""What was written is there again, also for the next controller; what cannot be written is said."""

import os
import sqlite3
import stat
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coat_ryu.cli import main
from coat_ryu.journal import Journal, JournalError
from coat_ryu.model import ContainerSpec
from coat_ryu.recovery import owed
from coat_ryu.saga import Migration, StepRecord

SPEC = ContainerSpec(
    name="web",
    node="a",
    image="i",
    command=("x", "y"),
    network="apps",
    ip=IPv4Address("192.168.50.1"),
    mac="02:00:00:00:00:01",
)


def a_migration(identifier: str, state: str = "running") -> Migration:
    return Migration(
        id=identifier,
        container="web",
        source="a",
        destination="b",
        mode="sequential",
        mac="keep",
        state=state,  # type: ignore[arg-type]
        started_at="2026-01-01T00:00:00Z",
        steps=[StepRecord(name="preflight", node="controller", started_at="2026-01-01T00:00:00Z", duration_s=0.1)],
    )


def test_containers_and_migrations_outlive_the_controller(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.db")
    first.put_resident(SPEC, "b")
    first.put_migration(a_migration("m1"), {"new_mac": "02:00:00:00:00:02"})
    # no close: the process was killed
    second = Journal(tmp_path / "j.db")
    assert second.residents()["web"].spec == SPEC
    assert second.residents()["web"].node == "b"
    assert second.unfinished() == [(a_migration("m1"), {"new_mac": "02:00:00:00:00:02"})]
    second.put_migration(a_migration("m1", "succeeded"), {})
    assert second.unfinished() == []
    found = second.migration("m1")
    assert found is not None and found.state == "succeeded"
    second.drop_resident("web")
    assert Journal(tmp_path / "j.db").residents() == {}


def test_pruning_keeps_the_newest_and_all_that_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.put_migration(a_migration("running"), {})
    for index in range(5):
        journal.put_migration(a_migration(f"m{index}", "succeeded"), {})
    assert journal.prune(keep=2) == 3
    assert [migration.id for migration in journal.migrations()] == ["m4", "m3", "running"]


def test_pruning_forgets_what_ended_long_ago(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.put_migration(a_migration("running"), {})
    for index in range(1, 5):
        ended = a_migration(f"m{index}", "succeeded")
        journal.put_migration(ended.model_copy(update={"finished_at": f"2026-01-0{index}T00:00:00.000000Z"}), {})
    assert journal.prune(keep=100, finished_before="2026-01-03T00:00:00.000000Z") == 2
    assert [migration.id for migration in journal.migrations()] == ["m4", "m3", "running"]


def test_pruning_by_a_clock_that_was_set_forgets_nothing_undecided(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    for name, container, state in (("m1", "web", "failed"), ("m2", "web", "failed"), ("m3", "db", "succeeded")):
        ended = a_migration(name, state).model_copy(
            update={"container": container, "finished_at": "2026-01-01T00:00:00.000000Z"}
        )
        journal.put_migration(ended, {})
    assert journal.prune(keep=100, finished_before="2099-01-01T00:00:00.000000Z") == 2
    assert [migration.id for migration in journal.migrations()] == ["m2"]


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    Journal(tmp_path / "j.db")
    assert stat.S_IMODE(os.stat(tmp_path / "j.db").st_mode) == 0o600


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j.db").write_text("this is not a database, and long enough to have a header of its own")
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path / "j.db")


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "j.db") as other:
        other.execute("PRAGMA user_version=99")
    with pytest.raises(JournalError, match="version 99"):
        Journal(tmp_path / "j.db")


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    blocker = sqlite3.connect(tmp_path / "j.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    journal.busy_timeout(0.05)
    with pytest.raises(JournalError, match="locked"):
        journal.check()
    blocker.execute("ROLLBACK")
    journal.check()


def test_no_statement_of_a_migration_s_life_looks_through_all_that_are_remembered(tmp_path: Path) -> None:
    """The event loop stands still meanwhile, and there may be 10,000."""
    journal = Journal(tmp_path / "j.db")
    statements: list[str] = []
    journal._db.set_trace_callback(statements.append)
    journal.put_migration(a_migration("m1", "succeeded"), {})
    journal.migration("m1")
    journal.latest("web")
    journal.unfinished()
    journal.newest("failed")
    journal.prune(100, "2026-01-03T00:00:00.000000Z")
    journal._db.set_trace_callback(None)
    plans = {one: journal._db.execute(f"EXPLAIN QUERY PLAN {one}").fetchall() for one in statements}
    assert len(plans) == 7
    through_all = [one for one, plan in plans.items() if any(row[3].startswith("SCAN") for row in plan)]
    assert all("LIMIT max(0" in one for one in through_all), plans  # as many as are too many


def test_the_newest_of_each_container_are_found_by_their_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    for name, container, state in (
        ("m1", "web", "failed"),
        ("m2", "web", "succeeded"),
        ("m3", "db", "succeeded"),
        ("m4", "db", "failed"),
        ("m5", "mail", "failed"),
    ):
        journal.put_migration(a_migration(name, state).model_copy(update={"container": container}), {"x": name})
    assert [(one.id, context) for one, context in journal.newest("failed")] == [
        ("m4", {"x": "m4"}),
        ("m5", {"x": "m5"}),
    ]
    assert [one.id for one, _ in journal.newest("failed", "mail")] == ["m5"]
    assert [one.id for one, _ in journal.newest("succeeded")] == ["m2"]


def test_a_name_that_is_a_word_of_ours_leaves_nothing_behind(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    journal.put_migration(a_migration("m1", "succeeded").model_copy(update={"container": "left_behind"}), {})
    assert list(owed(journal)) == []
    step = StepRecord(name="finish", node="controller", started_at="2026-01-01T00:00:00Z", detail={"left_behind": {}})
    journal.put_migration(a_migration("m2", "succeeded").model_copy(update={"steps": [step]}), {})
    assert list(owed(journal)) == [("a", "web"), ("b", "web")]


def test_a_second_controller_of_one_journal_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coat_ryu.journal.LOCK_PATIENCE", 0.1)
    path = tmp_path / "j.db"
    (tmp_path / "link.db").symlink_to(path)
    first = Journal(path, alone=True)
    code = "import sys; from pathlib import Path; from coat_ryu import journal; journal.LOCK_PATIENCE = 0.1\n"
    code += "try: journal.Journal(Path(sys.argv[1]), alone=True)\n"
    code += "except journal.JournalError as error: sys.exit(f'{error}')"
    for name in ("j.db", "link.db"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        told = f"the journal {tmp_path / name} is that of a controller that runs: one journal is for one controller"
        assert done.stderr.strip() == told
    first.put_resident(SPEC, "a")  # the lock of SQLite's own is as it was
    first.close()
    second = Journal(path, alone=True)
    assert second.residents()["web"].node == "a"


def test_a_journal_has_an_identity_and_counts_its_starts(tmp_path: Path) -> None:
    first, again = Journal(tmp_path / "j.db").reign(), Journal(tmp_path / "j.db").reign()
    assert (first.journal, first.start + 1) == (again.journal, again.start) and first.run != again.run
    assert Journal(tmp_path / "other.db").reign().journal != first.journal


def test_what_takes_a_lost_journal_s_place_is_obeyed_after_it(tmp_path: Path) -> None:
    lost, found = Journal(tmp_path / "j.db"), Journal(tmp_path / "new.db")
    last = [lost.reign() for _ in range(5)][-1]
    found.succeed(last.journal, last.start)
    assert (found.reign().journal, found.reign().start > last.start) == (last.journal, True)


def test_a_backup_is_a_whole_journal_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", alone=True)
    journal.put_resident(SPEC, "b")
    journal.put_migration(a_migration("m1"), {})
    command = ["journal", "backup", str(tmp_path / "copy.db"), "--journal", str(tmp_path / "j.db")]
    assert CliRunner().invoke(main, command).exit_code == 0
    journal.put_migration(a_migration("m2"), {})  # the controller goes on
    copy = Journal(tmp_path / "copy.db", alone=True)
    assert copy.residents() == journal.residents() and [one.id for one in copy.migrations()] == ["m1"]
    assert copy.identity == journal.identity and stat.S_IMODE(os.stat(tmp_path / "copy.db").st_mode) == 0o600
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1 and "is there already" in again.output
    missing = CliRunner().invoke(main, ["journal", "backup", str(tmp_path / "x.db"), "--journal", "/none"])
    assert missing.exit_code == 1 and "there is no journal /none" in missing.output
    assert sorted(path.name for path in tmp_path.glob("*copy*")) == ["copy.db", "copy.db-shm", "copy.db-wal"]


def test_the_database_is_closed_where_it_is_read(tmp_path: Path) -> None:
    """Closed under another thread's hands SQLite may crash: whoever works beside closes beside."""
    calls: list[str] = []

    def beside(call: Any, *arguments: Any) -> Any:
        calls.append(call.__name__)
        return call(*arguments)

    journal = Journal(tmp_path / "journal.db", beside)
    before = len(calls)
    journal.close()
    assert calls[before:] == ["close"]
