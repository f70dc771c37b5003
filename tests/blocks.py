"""Blocks of commands in the documents.

```` ```console ````: lines that begin with ``$`` are commands and are run, in order, by tests/lab/test_pages.py; what
follows is what they print. In it numbers and long hexadecimal words stand for any, spaces for any number of spaces, and
``...`` for anything: on a line of its own for any number of lines. A command with nothing below it may print anything.

```` ```sh ````: commands for real hosts; tests/unit/test_blocks.py reads them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```([\w+-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    text: str
    output: str


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """Language (may be empty) and text of every block of code."""
    for match in FENCE.finditer(document.read_text()):
        yield match[1], match[2]


def commands(document: Path) -> Iterator[Command]:
    """The commands of the console blocks, with what they are said to print."""
    for language, text in blocks(document):
        if language == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Command(command, output.strip("\n"))


def unlike(wanted: str, said: str) -> str:
    """The line of ``wanted`` that is not in ``said`` where it should be; empty if it fits."""
    lines = [_plain(line) for line in said.splitlines() if line.strip()]
    at, anywhere = 0, not wanted
    for line in wanted.splitlines():
        if line.strip() == "...":
            anywhere = True
            continue
        pattern = ".*".join(re.escape(part) for part in re.split(r" ?\.\.\. ?", _plain(line)))
        ahead = range(at, len(lines)) if anywhere else range(at, min(at + 1, len(lines)))
        found = next((index for index in ahead if re.fullmatch(pattern, lines[index])), None)
        if found is None:
            return line
        at, anywhere = found + 1, False
    return "" if anywhere or at == len(lines) else f"and no more, but there is: {lines[at]}"


def _plain(line: str) -> str:
    line = re.sub(r"\b[0-9a-f]{16,}\b", "HEX", line)
    line = re.sub(r"(?<![A-Za-z\d])\d+(?:\.\d+)*", "N", line)  # not the one in "edge1"
    return " ".join(line.split())
