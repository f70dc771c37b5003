"""What is installed is locked: exact versions with hashes, for all that setup.cfg names."""

import configparser
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SUPPLY = runpy.run_path(str(ROOT / "tools" / "supply.py"))
LOCKS = ("build.txt", "controller.txt", "develop.txt")


def locked(name: str) -> list[Requirement]:
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", "")
    return [Requirement(line.partition("--hash")[0]) for line in text.splitlines() if line and line[0] != "#"]


def wanted(*sections: tuple[str, str]) -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = [line for section, key in sections for line in config[section][key].splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", LOCKS)
def test_lock_file_every_line_has_one_version_and_a_hash(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line]
    assert lines
    assert [line for line in lines if not re.match(r"[a-z0-9.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("controller.txt", [("options", "install_requires")]),
        (
            "develop.txt",
            [("options", "install_requires"), *(("options.extras_require", key) for key in ("lab", "dev"))],
        ),
    ],
)
def test_lock_file_has_all_that_setup_cfg_asks_for(name: str, sections: list[tuple[str, str]]) -> None:
    versions: dict[str, list[str]] = {}
    for one in locked(name):
        versions.setdefault(canonicalize_name(one.name), []).extend(spec.version for spec in one.specifier)
    for requirement in wanted(*sections):
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement} is not in {name}: make lock"
        assert all(requirement.specifier.contains(version) for version in found), f"{requirement}: {found}: make lock"


def test_documents_install_nothing_without_a_hash() -> None:
    documents = [ROOT / "README.md", ROOT / "docs/install.md", ROOT / "deploy/README.md"]
    lines = [line for path in documents for line in re.findall(r"^\S+/pip install .*$", path.read_text(), re.MULTILINE)]
    assert len(lines) == 9
    assert [line for line in lines if "--require-hashes" not in line and "--no-deps" not in line] == []


def test_audit_known_vulnerability_fails(capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"name": "ryu", "version": "4.34", "vulns": [{"id": "CVE-1", "fix_versions": []}]}
    good = {"name": "six", "version": "1.17.0", "vulns": []}
    absent = {"name": "pbr", "skip_reason": "not found"}
    assert SUPPLY["report"]([good, absent]) == 0
    assert "1 of 2 packages looked up, 0 with known faults" in capsys.readouterr().out
    assert SUPPLY["report"]([good, bad]) == 1
    assert "ryu 4.34: CVE-1, mended in no release" in capsys.readouterr().out


def test_sbom_names_the_wheel_and_its_hash(tmp_path: Path) -> None:
    wheel = tmp_path / "coat_ryu-1.2.3-py3-none-any.whl"
    wheel.write_bytes(b"")
    made: dict[str, Any] = SUPPLY["described"]({"components": [1], "metadata": {"tools": 2}}, wheel)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert made["components"] == [1] and made["metadata"]["tools"] == 2
    assert made["metadata"]["component"]["version"] == "1.2.3"
    assert made["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": empty}]
    json.dumps(made)
