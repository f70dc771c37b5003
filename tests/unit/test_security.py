"""SECURITY.md promises nothing that no test checks: each statement of its table has a test, by name."""

import ast
import hashlib
import hmac
from pathlib import Path

import pytest

from coat_ryu import app, doors, static

ROOT = Path(__file__).parents[2]
LOCKS, DOORS, UI = "install/test_locks.py", "unit/test_doors.py", "lab/test_ui.py"
KEY, HERE, BUSY = "unit/test_latchkey.py", "unit/test_security.py", "unit/test_door.py"
SWITCH, TLS, TRANSFER = "switch/test_door.py", "switch/test_tls.py", "node/test_transfer.py"

CHECKED_BY = {
    "a stranger uses REST": [
        f"{LOCKS}::test_by_default_only_who_may_read_its_token_is_let_in",
        f"{DOORS}::test_an_open_door_keeps_the_controller_from_starting",
        f"{DOORS}::test_every_call_wants_its_role_and_changes_nothing_without",
        f"{LOCKS}::test_plain_http_gets_nothing",
    ],
    "another user of the controller's machine uses REST": [
        f"{KEY}::test_own_token_is_made_once_for_its_owner_alone",
        f"{KEY}::test_a_file_goes_to_nobody_but_its_owner",
        f"{DOORS}::test_loopback_needs_no_lock",
    ],
    "a token is guessed or stolen from the file": [
        f"{KEY}::test_own_token_is_made_once_for_its_owner_alone",
        f"{LOCKS}::test_a_door_that_does_not_lock_keeps_it_from_starting",
        f"{HERE}::test_every_token_is_compared_in_constant_time",
        f"{LOCKS}::test_who_asks_too_often_is_told_to_wait",
    ],
    "a request means one thing to a relay and another to us": [
        f"{LOCKS}::test_what_cannot_be_is_refused_in_the_api_s_shape",
    ],
    "a web page in the operator's browser asks loopback": [
        f"{DOORS}::test_a_page_of_somebody_else_gets_nothing",
        f"{DOORS}::test_without_tokens_a_name_is_not_answered_to",
    ],
    "a name or an error becomes markup on the page at `/ui`": [
        f"{UI}::test_what_a_server_says_is_text",
        "unit/test_static.py::test_every_file_is_served_as_what_it_is",
        f"{HERE}::test_no_page_of_somebody_else_frames_ours",
        f"{UI}::test_a_token_is_asked_for_and_kept_for_this_tab_alone",
    ],
    "a client floods, or holds connections": [
        f"{LOCKS}::test_a_crowd_that_says_nothing_shuts_nobody_out",
        "unit/test_feed.py::test_readers_are_counted_and_bounded",
    ],
    "a name or a field becomes a command": [
        "unit/test_fuzz.py::test_arguments_of_every_verb_are_checked_without_a_crash",
        f"{HERE}::test_no_shell_is_given_a_string",
    ],
    "a false switch speaks OpenFlow": [
        f"{HERE}::test_openflow_listens_on_loopback_by_default",
        f"{LOCKS}::test_a_door_that_does_not_lock_keeps_it_from_starting",
        f"{TLS}::test_one_node_s_certificate_is_the_key_to_its_own_switch_alone",
    ],
    "another connection says that it is a switch which is connected": [
        f"{SWITCH}::test_a_switch_gets_in_though_its_dead_connection_still_stands",
        f"{SWITCH}::test_a_stranger_with_a_live_switch_s_dpid_is_turned_away",
    ],
    "somebody holds or floods the OpenFlow port": [
        f"{SWITCH}::test_who_does_not_say_which_switch_it_is_is_hung_up_on",
        f"{SWITCH}::test_connections_that_are_nobody_yet_are_bounded_and_switches_get_in_after",
        f"{SWITCH}::test_a_switch_of_nobody_s_is_left_alone",
        f"{SWITCH}::test_a_flood_of_messages_keeps_nobody_from_their_turn",
        f"{SWITCH}::test_messages_that_cannot_be_read_hold_nobody_up_and_fill_no_log",
    ],
    "somebody stands between controller and node": [
        "node/test_remote.py::test_a_wrong_host_key_is_refused_with_both_fingerprints",
        "node/test_remote.py::test_an_unknown_host_key_is_refused",
    ],
    "the controller's SSH key is stolen": [
        "unit/test_shipment.py::test_the_right_digest_with_other_bytes_runs_and_leaves_nothing",
    ],
    "somebody stands between nodes and reads or replays a state": [
        f"{TRANSFER}::test_the_receiver_must_be_the_right_one_too",
        f"{TRANSFER}::test_what_was_delivered_once_is_not_taken_again",
    ],
    "a node that sends a container writes elsewhere on the one that receives it, or replaces its images": [
        "unit/test_untar.py::test_an_archive_changes_nothing_outside_its_directory",
        "unit/test_untar.py::test_what_is_no_part_of_the_layer_is_roots_alone",
        f"{TRANSFER}::test_an_image_takes_no_name_from_another",
        f"{TRANSFER}::test_another_image_than_the_announced_one_is_not_loaded",
    ],
    "a node's other users read a state at rest": [
        "unit/test_untar.py::test_what_is_no_part_of_the_layer_is_roots_alone",
    ],
    "a node's other users read a container's variables in the process list": [
        "node/test_unseen.py::test_variables_arrive_exactly_and_on_no_command_line",
        "unit/test_unseen.py::test_no_command_line_has_a_variable_or_the_spec",
    ],
    "a name that a container or a node chose is obeyed by a terminal, or forges a line of the log": [
        "unit/test_inside.py::test_names_that_a_container_chooses_are_printable",
        "unit/test_logs.py::test_a_message_is_one_line_whoever_has_worded_it",
        "unit/test_cli.py::test_what_a_node_or_a_container_says_moves_no_cursor",
    ],
    "a bad node stops the controller with what it says": [
        "unit/test_lines.py::test_a_line_has_a_limit_and_one_of_that_length_passes",
        "unit/test_lines.py::test_a_node_that_says_nonsense_is_hung_up_on_with_the_reason",
    ],
    "a node's other users ask CRIU for the memory that follows a container": [
        f"{BUSY}::test_criu_is_handed_its_only_client",
        f"{BUSY}::test_criu_is_handed_its_only_client",
    ],
    "a stranger on the underlay holds connections to a transfer's port": [
        f"{TRANSFER}::test_a_sender_from_another_address_is_not_let_in",
        f"{BUSY}::test_many_that_say_nothing_keep_no_peer_waiting",
        f"{BUSY}::test_strangers_starve_no_hook",
    ],
    "a container sends as another, or answers for it": [
        "switch/test_edge.py::test_a_spoofed_source_is_dropped",
        "switch/test_edge.py::test_a_known_address_is_answered_at_the_port",
    ],
    "a late command of a dead controller": [
        "unit/test_hook.py::test_an_older_epoch_is_refused_for_its_container_only",
    ],
    "a node's certificate is used for REST, or an operator's for OpenFlow": [
        f"{LOCKS}::test_the_documents_certificates_open_their_own_door_alone",
        f"{LOCKS}::test_with_one_authority_names_and_usages_still_keep_the_doors_apart",
        f"{TLS}::test_one_node_s_certificate_is_the_key_to_its_own_switch_alone",
    ],
    "a certificate's key is lost": [
        f"{TLS}::test_what_is_revoked_or_a_server_s_is_no_switch_s_certificate",
    ],
    "a second controller, or an old one that comes back": [
        "unit/test_journal.py::test_a_second_controller_of_one_journal_is_refused_with_a_sentence",
        "unit/test_master.py::test_another_controller_may_look_and_change_nothing_until_it_takes_over",
    ],
    "a journal that is lost, new or restored": [
        "unit/test_voice.py::test_a_restored_journal_is_refused_until_told_and_finds_what_moved",
    ],
    "nobody knows who did it": [
        "unit/test_audit.py::test_every_change_is_logged_with_its_author",
        "unit/test_audit.py::test_a_record_says_who_asked_also_after_a_restart",
    ],
    "a token is taken away": [
        f"{LOCKS}::test_sighup_ends_what_follows_with_a_token_that_is_gone",
        "unit/test_audit.py::test_a_token_that_is_taken_away_ends_its_streams_at_once",
    ],
    "somebody's name or request forges a line of the log": [
        "unit/test_logs.py::test_a_message_is_one_line_whoever_has_worded_it",
    ],
    "errors or logs tell secrets": [
        "unit/test_rest.py::test_an_unforeseen_failure_shows_nothing_of_its_inside",
        f"{LOCKS}::test_no_secret_is_in_the_log",
    ],
}
"""Threat -> a test for each statement that stands against it, in their order."""


def table() -> dict[str, list[str]]:
    text = (ROOT / "SECURITY.md").read_text().partition("## Against what, and how")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| ")]
    return {threat: against.split("; ") for threat, against in rows if not threat.startswith(("threat", "---"))}


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_security_table_every_statement_has_its_test() -> None:
    promised = table()
    assert len(promised) > 15
    assert promised.keys() == CHECKED_BY.keys()
    unchecked = {threat: against for threat, against in promised.items() if len(CHECKED_BY[threat]) != len(against)}
    assert unchecked == {}


@pytest.mark.parametrize("name", sorted({name for names in CHECKED_BY.values() for name in names}))
def test_security_table_every_named_test_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert function in functions(file)


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the first, the last or none fits: each is compared, by what takes the same time for each."""
    words = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("one", "two", "three")}
    lines = "".join(f"{name} read sha256:{digest}\n" for name, digest in words.items())
    seen: list[str] = []
    same = hmac.compare_digest

    def compare(mine: str, theirs: str) -> bool:
        seen.append(mine)
        return same(mine, theirs)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for word, role in (("one", "read"), ("three", "read"), ("four", None)):
        seen.clear()
        all_three = doors.Doors(doors.parse_tokens(lines, "tokens"))
        assert all_three.role_of(doors.Caller("127.0.0.1", f"Bearer {word}")) == role
        assert seen == list(words.values())


def test_no_page_of_somebody_else_frames_ours() -> None:
    assert "frame-ancestors 'none'" in static.POLICY


def test_openflow_listens_on_loopback_by_default() -> None:
    assert app.CONF.ofp_listen_host == app.CONF.wsapi_host == "127.0.0.1"


def test_no_shell_is_given_a_string() -> None:
    """Neither by an argument nor by a function that starts one (Bandit's S602, S604 and S605 look further)."""
    calls = [
        (path, node)
        for path in (ROOT / "coat_ryu").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    assert len(calls) > 2000
    assert [path for path, call in calls if any(word.arg == "shell" for word in call.keywords)] == []
    starters = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
    named = [(path, call.func.attr) for path, call in calls if isinstance(call.func, ast.Attribute)]
    assert [one for one in named if one[1] in starters] == []
