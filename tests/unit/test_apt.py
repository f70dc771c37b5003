"""Which Debian mirror a machine uses, from both formats of its apt configuration."""

from pathlib import Path

import pytest

from mininet_scenarios import rootfs
from mininet_scenarios.apt import Source, debian_source, parse_deb822, parse_one_line, read_sources

BOOKWORM = """\
# Debian 12 as its images come
Types: deb deb-src
# http://mirror.example/snapshot
URIs: http://mirror.example/debian http://second.example/debian/
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""

UBUNTU = """\
Types: deb
URIs: http://mirror.example/ubuntu/
Suites: noble noble-updates
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""

KEY_INSIDE = """\
Types: deb
URIs: https://mirror.example/debian
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS/xcRfwEQWzr
 -----END PGP PUBLIC KEY BLOCK-----
"""

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_deb822_gives_one_source_per_address() -> None:
    first, second, security = parse_deb822(BOOKWORM)
    suites, components = ("bookworm", "bookworm-updates"), ("main", "contrib")
    assert first == Source("http://mirror.example/debian", suites, components, KEYRING)
    assert second == Source("http://second.example/debian/", suites, components, KEYRING)
    assert (security.suites, security.keyring) == (("bookworm-security",), None)


@pytest.mark.parametrize("line", ["Enabled: no", "Enabled: false"])
def test_what_is_switched_off_is_not_used(line: str) -> None:
    assert (
        debian_source(parse_deb822(BOOKWORM.replace("Components: main\n contrib", f"Components: main\n{line}"))) is None
    )


def test_source_packages_alone_are_no_source() -> None:
    assert (
        list(parse_deb822("Types: deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"))
        == []
    )


def test_a_key_in_the_file_is_no_keyring() -> None:
    (source,) = parse_deb822(KEY_INSIDE)
    assert source.keyring is None and source.is_debian


def test_one_line_format() -> None:
    text = f"""
    # deb http://comment.example/debian trixie main
    deb [arch=amd64 signed-by={KEYRING}] http://mirror.example/debian bookworm main contrib # ours
    deb-src http://mirror.example/debian bookworm main
    deb cdrom:[Debian]/ bookworm main
    """
    first, cdrom = parse_one_line(text)
    assert first == Source("http://mirror.example/debian", ("bookworm",), ("main", "contrib"), KEYRING)
    assert first.is_debian and not cdrom.is_debian


@pytest.mark.parametrize(
    "source",
    [
        Source("http://mirror.example/ubuntu", ("noble",), ("main",)),
        Source("http://vendor.example/linux/debian", ("bookworm",), ("stable",)),
        Source("http://vendor.example/apt", ("bookworm",), ("main",)),
        Source("http://mirror.example/debian", ("bookworm-security",), ("main",)),
        Source("cdrom:/debian", ("bookworm",), ("main",)),
    ],
)
def test_other_archives_are_not_debians(source: Source) -> None:
    assert not source.is_debian


def test_a_machine_s_files_are_read_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/ubuntu.sources").write_text(UBUNTU)
    (tmp_path / "sources.list.d/old.list.save").write_text("deb http://saved.example/debian trixie main")
    assert debian_source(read_sources(tmp_path)) is None
    (tmp_path / "sources.list").write_text("deb http://mirror.example/debian trixie main")
    found = debian_source(read_sources(tmp_path))
    assert found is not None and found.uri == "http://mirror.example/debian"


def test_the_recipe_decides_where_the_root_file_system_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(rootfs.CACHE_VARIABLE, str(tmp_path))
    before = rootfs.path()
    assert before.parent == tmp_path
    monkeypatch.setattr(rootfs, "PACKAGES", [*rootfs.PACKAGES, "cowsay"])
    assert rootfs.path() != before
