"""The site is whole, every link leads somewhere, nothing comes from elsewhere; the references are complete."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click import Group
from mkdocs.commands.build import build
from mkdocs.config import load_config
from pydantic import BaseModel

from coat_ryu import doctor
from coat_ryu.cli import COMMANDS, main
from coat_ryu.cli.client import Exit
from coat_ryu.model import ContainerSpec, Network, Node, Ssh, Topology, Tunnel
from tests.unit.test_documents import section, table_cells

ROOT = Path(__file__).parents[2]
CLI, CONFIGURATION, INSTALL = (ROOT / "docs" / f"{name}.md" for name in ("cli", "configuration", "install"))
FETCHED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(target), strict=True))
    return target


class Fetches(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if value and FETCHED.get(tag) == name]


def fetched(site: Path) -> Iterator[str]:
    for page in site.rglob("*.html"):
        parser = Fetches()
        parser.feed(page.read_text())
        yield from parser.found
    for sheet in site.rglob("*.css"):
        yield from re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", sheet.read_text())


def test_every_document_is_a_page(site: Path) -> None:
    documents = {path.stem for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))} - {"README"}
    assert documents <= {page.stem for page in site.glob("*.html")}
    assert (site / "deploy/index.html").exists() and (site / "deploy/example/topology.yaml").exists()
    assert 'href="rest_api.html#modes"' in (site / "index.html").read_text()
    assert 'href="../install.html"' in (site / "deploy/index.html").read_text()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    assert len(list(fetched(site))) > 20
    assert [one for one in fetched(site) if one.startswith(("http:", "https:", "//"))] == []


def test_every_command_and_option_is_in_the_reference_and_nothing_else() -> None:
    written = re.findall(r"^\| `coat ([a-z]+)", CLI.read_text(), re.MULTILINE)
    assert sorted(written) == sorted(str(command.name) for command in COMMANDS)
    for command in COMMANDS:
        (row,) = re.findall(rf"^\| `coat {command.name}\b.*$", CLI.read_text(), re.MULTILINE)
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        told = set(re.findall(r"--[a-z0-9-]+", row))
        assert told == options - {"--json"}, command.name
    assert isinstance(main, Group)
    options = {option for parameter in main.params for option in parameter.opts if option.startswith("--")}
    assert options - {"--version"} == {cell for cell in table_cells(CLI.read_text()) if cell.startswith("--")}


def test_every_exit_status_is_in_the_reference_and_nothing_else() -> None:
    written = re.findall(r"^\| (\d+) \|", section(CLI, "Exit status"), re.MULTILINE)
    assert {int(status) for status in written} == {0, 2, *Exit}


@pytest.mark.parametrize(
    ("title", "models"),
    [
        ("The topology", [Topology]),
        ("A node", [Node, Ssh]),
        ("A network", [Network]),
        ("A tunnel", [Tunnel]),
        ("A container", [ContainerSpec]),
    ],
)
def test_every_key_of_a_topology_is_explained_and_nothing_else(title: str, models: list[type[BaseModel]]) -> None:
    assert table_cells(section(CONFIGURATION, title)) == {key for model in models for key in model.model_fields}


def test_the_install_page_says_what_the_doctor_says() -> None:
    page = INSTALL.read_text()
    assert all(part in page for part in doctor.CRIU[doctor.DEBIAN_13].split(" && "))
    bare = doctor.judge({"os": doctor.DEBIAN_13, "kernel": "6.12"}, 0.0)
    wanted = {word for one in bare if one.mend.startswith("apt-get install --yes ") for word in one.mend.split()[3:]}
    (line,) = {line for line in page.splitlines() if line.startswith("apt-get install --yes python3 ")}
    assert wanted and wanted <= set(line.split())
