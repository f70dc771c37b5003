"""What the documents say exists, exists; and what exists is in them."""

import configparser
import importlib
import re
from pathlib import Path

from coat_ryu import openapi
from coat_ryu.node.criulog import KNOWN
from coat_ryu.node.verbs import VERBS
from coat_ryu.rest import ROUTES
from coat_ryu.saga import STEPS

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
REST, README, ARCHITECTURE = (ROOT / name for name in ("rest_api.md", "README.md", "docs/architecture.md"))


def table_cells(text: str, column: int = 0) -> set[str]:
    """Every word in backticks in one column of the tables of a text."""
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {word for row in rows if len(row) > column for word in re.findall(r"`([^`]+)`", row[column])}


def prose(document: Path) -> str:
    """A document without its blocks of code, where a # begins no heading."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def section(document: Path, title: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    start = re.search(rf"^(#+) {re.escape(title)}$", prose(document), re.MULTILINE)
    assert start, f"{document.name} has no section {title!r}"
    rest = prose(document)[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def anchors(document: Path) -> set[str]:
    """The headings of a document as GitHub makes fragments of them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_route_is_described_and_nothing_else() -> None:
    described = re.findall(r"^### ((?:GET|POST|DELETE|PUT) \S+)$", REST.read_text(), re.MULTILINE)
    assert sorted(described) == sorted(f"{route.method} {route.path}" for route in ROUTES)


def test_every_parameter_and_header_of_a_call_is_described() -> None:
    everywhere = section(REST, "Lists") + section(REST, "ETags")
    for route in ROUTES:
        text = section(REST, f"{route.method} {route.path}") + everywhere
        names = {*route.query.model_fields, *route.headers}
        assert [name for name in names if not re.search(rf"\b{name}\b", text)] == [], route


def test_every_status_that_a_call_can_have_is_described() -> None:
    described = {int(status) for status in re.findall(r"^\| (\d{3}) \|", section(REST, "Errors"), re.MULTILINE)}
    listed = {int(status) for methods in openapi.document(ROUTES)["paths"].values() for one in methods.values()
              for status in one["responses"]}  # fmt: skip
    assert {status for status in listed if status >= 400} | {405} == described


def test_every_step_is_described_and_nothing_else() -> None:
    table = section(REST, "The record").split("| step |")[1]
    assert {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")} == set(STEPS)


def test_every_cause_of_a_refusal_is_described() -> None:
    pattern = r'\b(?:default_)?cause(?:: ClassVar\[str\])? ?= ?"(\w+)"'
    written = {cause for path in (ROOT / "coat_ryu").glob("*.py") for cause in re.findall(pattern, path.read_text())}
    assert {"bad_input", "starting", "past_pivot"} <= written
    # Bases that nobody raises, and what keeps the controller from starting.
    never_answered = {"error", "conflict", "bad_tokens", "bad_clients", "open_door"}
    assert written - never_answered <= set(re.findall(r"`(\w+)`", section(REST, "Errors")))


def test_every_reason_of_criu_is_described_and_nothing_else() -> None:
    assert table_cells(section(REST, "What CRIU cannot do")) - {"cause"} == {one.cause for one in KNOWN}


def test_every_make_target_is_in_the_readme_and_nothing_else() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = set(re.findall(r"`make ([a-z-]+)", README.read_text()))
    assert told == targets


def test_readme_has_the_command_that_ci_runs() -> None:
    (command,) = re.findall(r"^exec (make \w+)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert f"`{command}`" in README.read_text()


def test_links_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            path, _, fragment = link.partition("#")
            target = document.parent / path if path else document
            if link.startswith(("http://", "https://")):
                continue
            if not target.exists() or (fragment and fragment not in anchors(target)):
                broken.append(f"{document.name}: {link}")
    assert not broken


def test_topology_files_that_are_named_exist() -> None:
    named = {name for document in DOCUMENTS for name in re.findall(r"\btopologies/[\w-]+\.yaml", document.read_text())}
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_option_is_in_the_readme_and_nothing_else() -> None:
    options = set(re.findall(r'cfg\.\w+Opt\(\s*"(\w+)"', (ROOT / "coat_ryu/app.py").read_text()))
    assert table_cells(section(README, "Options")) == options


def test_every_verb_of_the_hook_is_described_and_nothing_else() -> None:
    importlib.import_module("coat_ryu.node.hook")  # imports all that register verbs
    assert table_cells(section(ARCHITECTURE, "The hook's protocol")) == set(VERBS)


def test_rooms_are_the_layers_that_import_linter_enforces() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    layers = setup["importlinter:contract:layers"]["layers"].split("\n")
    wanted = [set(layer.replace("|", " ").split()) for layer in layers if layer]
    rows = [line.split("|")[1] for line in section(ARCHITECTURE, "Rooms").splitlines() if line.startswith("| ")]
    written = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert [row for row in written if row] == wanted


def test_files_that_are_named_exist() -> None:
    pattern = r"`((?:coat_ryu|mininet_scenarios|tests|tools|docs)/[\w./-]+)`"
    named = {name for document in DOCUMENTS for name in re.findall(pattern, document.read_text())}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_warning_of_a_move_is_in_the_list_and_nothing_else() -> None:
    raised = set(re.findall(r'Caveat\(\s*"(\w+)"', (ROOT / "coat_ryu/caveats.py").read_text()))
    assert raised and table_cells((ROOT / "docs/limits.md").read_text()) == raised
