"""Every block of commands in the documents says what it is, and asks ours for what they have; a shell can read it."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from coat_ryu.cli import main as coat
from mininet_scenarios.cli import main as coat_lab
from tests.blocks import Command, blocks, commands, unlike

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md")
    for path in ROOT.glob(pattern)
    # The REST API's examples are answers more than commands.
    if path.name not in ("rest_api.md", "CHANGELOG.md")
)
COMMAND = re.compile(
    r"^\$ |^(?:sudo |\./coat-lab|coat |make |curl |git |ssh[ -]|apt-|pip |podman |systemctl |[\w./]*/bin/)", re.M
)
GROUPS = {"coat": coat, "coat-lab": coat_lab}


def lines(document: Path) -> Iterator[str]:
    yield from (command.text for command in commands(document))
    for language, text in blocks(document):
        if language == "sh":
            yield from text.replace("\\\n", " ").splitlines()


def words(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, as lists of words."""
    lexer = shlex.shlex(re.sub(r"\$\(|\)$", " ; ", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    current: list[str] = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            yield current
            current = []
        elif current or "=" not in word:
            current.append(word)
    yield current


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_say_what_they_are(document: Path) -> None:
    for language, text in blocks(document):
        if language == "sh":
            read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=30)
            assert read.returncode == 0, f"{read.stderr}\n{text}"
            assert not text.startswith("$ "), f"a console block:\n{text}"
        elif language == "console":
            assert text.startswith("$ "), text
        elif language == "yaml":
            assert yaml.safe_load(text)
        elif language == "python":
            compile(text, document.name, "exec")
        else:
            assert not COMMAND.search(text), f"commands in a block that is neither console nor sh:\n{text}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_our_own_commands_have_what_they_are_asked_for(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in lines(document):
        for command in words(line):
            name = Path(command[0]).name if command else ""
            if name in GROUPS:
                parsed(GROUPS[name], command)
            elif name == "make":
                assert {word for word in command[1:] if "=" not in word} <= set(targets), line


def parsed(group: click.Group, command: list[str]) -> None:
    """Raises UsageError when the command line asks for a command or an option that there is not."""
    context = click.Context(group, info_name=command[0])
    _, rest, _ = group.make_parser(context).parse_args(list(command[1:]))
    if rest:
        name, subcommand, arguments = group.resolve_command(context, rest)
        assert subcommand is not None
        context = click.Context(subcommand, context, name, **subcommand.context_settings)
        subcommand.make_parser(context).parse_args(arguments)


def test_what_ours_do_not_have_is_found() -> None:
    with pytest.raises(click.UsageError):
        parsed(coat, ["coat", "migrate", "web", "b", "--quickly"])
    with pytest.raises(click.UsageError):
        parsed(coat_lab, ["./coat-lab", "fly"])


def test_commands_are_found_wherever_they_stand_in_a_line() -> None:
    found = [command for command in words("id=$(coat migrate web b) && FOO=1 coat nodes | sh") if command]
    assert found == [["coat", "migrate", "web", "b"], ["coat", "nodes"], ["sh"]]


def test_a_page_s_commands_are_found_with_what_they_print(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n```console\n$ one\nsaid\nmore\n$ two\n```\n```sh\nthree\n```\n")
    assert list(commands(page)) == [Command("one", "said\nmore"), Command("two", "")]


@pytest.mark.parametrize(
    ("wanted", "said", "wrong"),
    [
        ("", "anything", ""),
        ("a  1.5 ms", "a 22 ms", ""),
        ("a", "a\n\n", ""),
        ("a", "a\nb", "and no more, but there is: b"),
        ("a", "", "a"),
        ("edge1", "edge2", "edge1"),
        ("id a0ec08d6593d0cd6 ok", "id 4aa283f3a2041dd2 ok", ""),
        ("id a0ec08d6593d0cd6 ok", "id unknown ok", "id a0ec08d6593d0cd6 ok"),
        ("a\n...\nd", "a\nb\nc\nd", ""),
        ("a\n...", "a\nb", ""),
        ("...\nd", "a\nb", "d"),
        ("a\nc", "a\nb\nc", "c"),
        ('{"id": "x", ... "state": "good", ...', '{"id": "x", "n": 1, "state": "good", "e": null}', ""),
        ("x ... good ...", "x y bad z", "x ... good ..."),
    ],
)
def test_what_is_printed_is_compared_with_what_is_written(wanted: str, said: str, wrong: str) -> None:
    assert unlike(wanted, said) == wrong
