"""Faults made with real means: a command that fails, hangs, or waits while something is done to the machine.

Wrappers in a lab host's /usr/local/sbin, which comes first on the hook's PATH, stand before podman, criu and ovs-vsctl.
Each looks whether a trap is laid for its command line; the first command that fits springs it, once. The product knows
nothing of it.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mininet_scenarios import cgroups
from mininet_scenarios.lab import Lab

Reaction = Literal["fail", "hang", "late", "before", "during", "after"]
"""What the wrapped command does: ends with an error, never ends, begins ``LATE`` seconds later, or waits for us before
or after its work, or not."""

LATE = 13.0

COMMANDS = {
    "podman": "/usr/bin/podman",
    "runc": "/usr/sbin/runc",
    "criu": "/usr/sbin/criu",
    "ovs-vsctl": "/usr/bin/ovs-vsctl",
}
TRAP = "/run/coat-trap"
WRAPPER = """#!/bin/bash
# Stands before {path}; lab only.
trap={trap}
[ -e $trap/pattern ] || exec {path} "$@"
IFS= read -r pattern <$trap/pattern; IFS= read -r reaction <$trap/reaction
[[ "{name} $*" == $pattern ]] && mkdir $trap/sprung 2>/dev/null || exec {path} "$@"
meet() {{ for _ in {{1..300}}; do [ -e $trap/go ] && break; sleep 0.05; done; }}
case $reaction in
    fail) echo "sabotage: $*" >&2; exit 125 ;;
    hang) exec sleep 600 ;;
    late) sleep {late:g}; exec {path} "$@" ;;
    before) touch $trap/reached; meet; exec {path} "$@" ;;
    during) {path} "$@" & touch $trap/reached; wait $!; exit ;;
    after) {path} "$@"; status=$?; touch $trap/reached; meet; exit $status ;;
esac
"""
TRAP_TIMEOUT = 40.0
DEATH_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Saboteur:
    """Works on the hosts of one lab."""

    lab: Lab

    def install(self, host: str) -> None:
        for name, path in COMMANDS.items():
            text = WRAPPER.format(name=name, path=path, trap=TRAP, late=LATE)
            script = f"cat >/usr/local/sbin/{name} && chmod 755 /usr/local/sbin/{name}"
            self.lab.exec(host, ["sh", "-c", script], input=text)

    def lay(self, host: str, pattern: str, reaction: Reaction) -> None:
        """A trap for the next command on ``host`` whose line (name and arguments) fits the shell pattern."""
        script = 'rm -rf "$0" && mkdir "$0" && echo "$1" >"$0/reaction" && echo "$2" >"$0/pattern"'
        self.lab.exec(host, ["sh", "-c", script, TRAP, reaction, pattern])

    def sprung(self, host: str) -> bool:
        return self.lab.exec(host, ["test", "-e", f"{TRAP}/sprung"], check=False).returncode == 0

    def at_trap(self, host: str, act: Callable[[], None], over: Callable[[], bool]) -> bool:
        """Acts when the trapped command waits, and lets it go on. False if the migration is ``over`` before."""
        deadline = time.monotonic() + TRAP_TIMEOUT
        while self.lab.exec(host, ["test", "-e", f"{TRAP}/reached"], check=False).returncode != 0:
            if over() or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        try:
            act()
        finally:
            if self.lab.exec(host, ["true"], check=False).returncode == 0:
                self.lab.exec(host, ["touch", f"{TRAP}/go"])
        return True

    def clear(self, host: str) -> None:
        """No trap is left, and no command hangs in one."""
        for pid in self._find(host, ["sleep", "600"]):
            os.kill(pid, signal.SIGKILL)
        self.lab.exec(host, ["rm", "-rf", TRAP])

    # ---- what is done at a trap

    def kill_hook(self, host: str) -> None:
        for pid in self._hooks(host):
            os.kill(pid, signal.SIGKILL)

    def drop_ssh(self, host: str) -> None:
        """The SSH connection is lost; the hook that it carried lives on for what it has begun."""
        for pid in self._containing(host, "sshd-session: root@"):
            os.kill(pid, signal.SIGKILL)

    def end_container(self, host: str, name: str, command: list[str], kind: str) -> None:
        """What a person, or the kernel, may do to a container at any moment. Podman is not asked to kill: it would wait
        for its own checkpoint.
        """
        if kind == "container_killed":
            for pid in self._find(host, command):
                os.kill(pid, signal.SIGKILL)
            return
        act = ["stop", "--time=0"] if kind == "container_stopped" else ["rm", "--force", "--time=0"]
        self.lab.exec(host, ["/usr/bin/podman", *act, name])

    def restart_ovs(self, host: str) -> None:
        """ovs-vswitchd dies and starts anew: all flows and every OpenFlow connection are gone."""
        for pid in self._containing(host, "ovs-vswitchd"):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + DEATH_TIMEOUT
        while self._containing(host, "ovs-vswitchd") and time.monotonic() < deadline:
            time.sleep(0.01)  # it has its lock until it is gone
        self.lab.exec(host, ["ovs-vswitchd", "--detach", "--no-chdir", "--pidfile", "--log-file"])

    def drop_openflow(self, host: str) -> None:
        """The switch loses its controller, and finds it again two seconds later."""
        target = self.lab.exec(host, ["/usr/bin/ovs-vsctl", "get-controller", "coat"]).stdout.strip()
        self.lab.exec(host, ["/usr/bin/ovs-vsctl", "del-controller", "coat"])
        time.sleep(2)
        self.lab.exec(host, ["/usr/bin/ovs-vsctl", "set-controller", "coat", target])

    def fill_disk(self, host: str) -> None:
        """Podman's storage, a file system of the host's own, has next to no room from now on."""
        used = self.lab.exec(host, ["df", "--output=used", "-B1K", "/var/lib/containers"]).stdout.split()[-1]
        self.lab.exec(host, ["mount", "-o", f"remount,size={int(used) + 64}k", "/var/lib/containers"])

    def empty_disk(self, host: str) -> None:
        self.lab.exec(host, ["mount", "-o", "remount,size=50%", "/var/lib/containers"])

    # ---- what is running

    def running(self, argv: list[str]) -> list[str]:
        """Hosts of processes with exactly this command line that may run, one entry a process.

        What CRIU holds stopped is a state that nobody has continued yet: the source's, while its memory follows.
        """
        return [host for host in self.lab.state.hosts for pid in self._find(host, argv) if not _is_held(pid)]

    def hook_figures(self, host: str) -> tuple[int, int]:
        """Resident memory in bytes and open files of the node's hook."""
        return figures(self.hook(host))

    def hook(self, host: str) -> int:
        """The node's hook, as the machine numbers it (the newest, if two live side by side)."""
        return max(self._hooks(host))

    def hooks(self, host: str) -> int:
        return len(self._hooks(host))

    def _hooks(self, host: str) -> list[int]:
        found = [pid for pid in self._containing(host, "/run/coat/hook-") if b"-I" in _argv(pid)]
        return [pid for pid in found if _parent(pid) not in found]  # a child is about to become a command

    def _find(self, host: str, argv: list[str]) -> list[int]:
        wanted = [word.encode() for word in argv]
        return [pid for pid in self._processes(host) if _argv(pid) == wanted]

    def _containing(self, host: str, text: str) -> list[int]:
        return [pid for pid in self._processes(host) if text.encode() in b" ".join(_argv(pid)[:3])]

    def _processes(self, host: str) -> list[int]:
        if host not in self.lab.state.hosts:
            return []
        return cgroups.processes(Path(self.lab.state.hosts[host].cgroup).parent)


def _argv(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:  # it has ended
        return []


def _is_held(pid: int) -> bool:
    """Whether a tracer has stopped it, or it has ended."""
    return _state_and_parent(pid)[0] in ("t", "")


def _parent(pid: int) -> int:
    """0 when it has ended."""
    return _state_and_parent(pid)[1]


def _state_and_parent(pid: int) -> tuple[str, int]:
    """As proc_pid_stat(5) has them; "" and 0 when it has ended."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return state, int(parent)


def figures(pid: int) -> tuple[int, int]:
    """Resident memory in bytes (/proc/PID/status, VmRSS) and open files of a process of this machine."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]
    return int(resident) * 1024, len(os.listdir(f"/proc/{pid}/fd"))
