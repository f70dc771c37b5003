"""What is in deploy/ is usable as it stands."""

import configparser
import shutil
import subprocess
from pathlib import Path

from coat_ryu.config import parse_topology
from tests.unit.test_documents import README, section, table_cells

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "systemd/coat-controller.service"
EXPOSURE = 2.0
"""Of at most 10, by systemd-analyze(1): below 2 is "OK"; with nothing hardened it says 9.x."""


def unit(path: Path = UNIT) -> dict[str, dict[str, list[str]]]:
    """Section, setting, values; a setting may stand there several times."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            current = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            current.setdefault(key, []).append(value)
    return found


def test_the_example_is_a_topology_with_three_hosts() -> None:
    topology = parse_topology((DEPLOY / "example/topology.yaml").read_text(), "topology.yaml")
    assert [node.name for node in topology.nodes] == ["edge1", "edge2", "device"]
    assert all(str(node.address) in (DEPLOY / "README.md").read_text() for node in topology.nodes)


def test_the_example_s_options_exist_and_lead_to_what_the_steps_install() -> None:
    config = configparser.ConfigParser()
    config.read(DEPLOY / "example/coat.conf")
    assert set(config["coat"]) - set(config["DEFAULT"]) <= table_cells(section(README, "Options"))
    steps = (DEPLOY / "README.md").read_text()
    for option in ("topology", "ssh_key", "ssh_known_hosts", "ctl_cert", "ctl_privkey", "ca_certs"):
        assert Path(config["coat"][option]).name in steps
    state = unit()["Service"]["StateDirectory"]
    writable = Path("/var/lib") / state[0]  # all else is read-only (ProtectSystem=strict)
    assert Path(config["coat"]["journal"]).parent == Path(config["coat"]["topology"]).parent == writable
    assert f"install -d -m 700 -o coat -g coat {writable}\n" in steps
    assert f"-o coat -g coat deploy/example/topology.yaml {writable}/\n" in steps


def test_the_unit_starts_what_the_steps_install_as_its_own_user() -> None:
    service = unit()["Service"]
    assert service["ExecStart"] == ["/opt/coat/bin/ryu-manager --config-file /etc/coat/coat.conf coat_ryu.app"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert (
        f"useradd --system --home-dir /var/lib/coat --shell /usr/sbin/nologin {service['User'][0]}"
        in (DEPLOY / "README.md").read_text()
    )


def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    """systemd-analyze where there is one; elsewhere the settings that it looks at are compared by hand."""
    service = unit()["Service"]
    assert service["CapabilityBoundingSet"] == [""] and service["ProtectSystem"] == ["strict"]
    assert service["NoNewPrivileges"] == service["ProtectHome"] == service["PrivateDevices"] == ["yes"]
    if (analyze := shutil.which("systemd-analyze")) is None:
        return
    # It looks for the program, which is not installed here.
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/coat/bin/ryu-manager", "/bin/true"))
    verified = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    limit = f"--threshold={EXPOSURE * 10:.0f}"
    closed = subprocess.run(
        [analyze, "security", "--offline=yes", limit, str(copy)], capture_output=True, text=True, timeout=60
    )
    assert closed.returncode == 0, closed.stdout
