"""What the machine's own apt configuration says about Debian: which mirror it uses, which keyring, which proxy.

Both formats of sources.list(5) are read, one-line and deb822. Nothing here touches the network.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Debian's releases since 2023 by the names that a source may carry. Ubuntu's never match, by design.
DEBIAN_SUITES = frozenset("bookworm trixie forky duke sid stable testing unstable oldstable oldoldstable".split())


@dataclass(frozen=True, slots=True)
class Source:
    """One archive: its base address, the suites and components taken from it, and the keyring that vouches for it."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    keyring: str | None = None

    @property
    def is_debian(self) -> bool:
        """Whether it looks like Debian's main archive: others use the same suite names, but not this path."""
        return (
            self.uri.startswith(("http://", "https://", "file:/"))
            and self.uri.rstrip("/").endswith("/debian")
            and "main" in self.components
            and not DEBIAN_SUITES.isdisjoint(self.suites)
        )


def parse_one_line(text: str) -> Iterator[Source]:
    """Sources of a ``*.list`` file: ``deb [option=value ...] uri suite component...``"""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            options, uri, suite, components = match.groups()
            keyring = re.search(r"(?:^|\s)signed-by=(/\S+)", options or "", re.IGNORECASE)
            yield Source(uri, (suite,), tuple(components.split()), keyring[1] if keyring else None)


def parse_deb822(text: str) -> Iterator[Source]:
    """Sources of a ``*.sources`` file: stanzas of fields, several URIs and suites in each."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        pairs = re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        fields = {key.lower(): value.split() for key, value in pairs}
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in ("no", "false"):
            continue
        signed_by = fields.get("signed-by", [])
        keyring = signed_by[0] if signed_by and signed_by[0].startswith("/") else None  # else the key itself
        for uri in fields.get("uris", []):
            yield Source(uri, tuple(fields.get("suites", [])), tuple(fields.get("components", [])), keyring)


def read_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """All enabled binary sources of the machine."""
    sources: list[Source] = []
    for path in [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]:
        if path.is_file() and path.suffix in (".list", ".sources"):
            parse = parse_deb822 if path.suffix == ".sources" else parse_one_line
            sources += parse(path.read_text(errors="replace"))
    return sources


def debian_source(sources: Iterable[Source]) -> Source | None:
    """The machine's Debian mirror, or None where it has none (Ubuntu)."""
    return next((source for source in sources if source.is_debian), None)


def proxy_options() -> list[str]:
    """The machine's apt proxies, as lines of apt.conf(5)."""
    command = ["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire"]
    dump = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return [line for line in dump.stdout.splitlines() if re.match(r"Acquire::https?::Proxy", line, re.IGNORECASE)]
