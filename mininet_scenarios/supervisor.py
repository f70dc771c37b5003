"""The process that holds one lab: it starts the lab's namespaces and the controller, and removes all of it at the end.

Everything it starts is killed by the kernel when it dies (PR_SET_PDEATHSIG); what the kernel does not remove with the
processes, cgroups and files, is removed here, or by the next run if this one is killed.

It is started by `Lab.up`. Standard input: one JSON object with the order, then nothing until ``detach``; when it ends
without that, whoever wanted the lab is gone and the lab goes too. Standard output: ``{"progress": text}`` lines, then
``{"ready": true}`` or ``{"error": text}``. Afterwards it takes one JSON request a connection on ``control.sock``.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mininet_scenarios import cgroups, rootfs, state
from mininet_scenarios.controller import Controller, ControllerFailed

CODE = Path(__file__).parent
MOUNTS = "/usr/share/coat-lab"  # inside; see inside/host.py
READY_TIMEOUT = 120.0
STOP_TIMEOUT = 30.0
NOTICE_TIMEOUT = 1.0
REST_INSIDE = 8080


class LabFailed(Exception):
    """The lab cannot be brought up; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to bring up. ``rest_port`` 0 takes any free one; ``options`` go into the controller's ``[coat]`` group."""

    name: str
    topology: str
    plan: dict[str, Any]
    rootfs: str
    rest_port: int = 0
    controller: bool = True
    options: dict[str, str] = field(default_factory=dict)


def say(**message: Any) -> None:
    with suppress(BrokenPipeError):  # whoever waited is gone; standard input tells
        print(json.dumps(message), flush=True)


class Supervisor:
    def __init__(self, order: Order, *held: IO[str]) -> None:
        """``held`` are the locks that this lab needs for as long as it lives."""
        self.order = order
        self._held = held
        self.folder = state.directory(order.name)
        self.cgroup = cgroups.directory(order.name)
        self.lab: asyncio.subprocess.Process | None = None
        self.controller: Controller | None = None
        self.over = asyncio.Event()
        self._lifeline: asyncio.Task[None] | None = None

    async def up(self, lifeline: asyncio.StreamReader) -> None:
        """Bring everything up and publish it. Raises LabFailed, ControllerFailed."""
        self._lifeline = asyncio.create_task(self._watch(lifeline))  # a task that nobody refers to may be collected
        start = asyncio.create_task(self._start())
        stop = asyncio.create_task(self.over.wait())
        done, _ = await asyncio.wait({start, stop}, timeout=READY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if start not in done:
            start.cancel()
            log = _tail(self.folder / "lab.log")
            raise LabFailed("interrupted" if done else f"not up after {READY_TIMEOUT:.0f} s; its log ends:\n{log}")
        start.result()

    async def _start(self) -> None:
        listener = self._listen()
        rest = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await self._start_lab(listener)
        assert self.lab is not None
        listener.close()  # the lab has its own copy
        hosts = {
            host["name"]: state.HostState(
                pid=self._host_init(host["name"]),
                cgroup=str(self.cgroup / host["name"] / "init"),
                address=host["address"],
                ssh_host=host["ssh_host"],
                ssh_port=host["ssh_port"],
            )
            for host in self.order.plan["hosts"]
        }
        pid = _first_process(self.cgroup / "lab")
        self.controller = Controller(self.order, self.folder, pid, rest)
        if self.order.controller:
            say(progress="starting the controller")
            await self.controller.start()
        await asyncio.start_unix_server(self._serve, self.folder / "control.sock")
        state.publish(state.LabState(self.order.name, self.order.topology, rest, os.getpid(), pid, hosts))

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self.order.rest_port))
        except OSError as error:
            raise LabFailed(
                f"127.0.0.1:{self.order.rest_port}: {error.strerror}; --rest-port takes another, 0 any free one"
            ) from None
        listener.listen(128)
        return listener

    async def _start_lab(self, listener: socket.socket) -> None:
        order = self.order
        kernel_datapath = _load_module("openvswitch")
        _load_module("sch_netem")
        plan = {**order.plan, "kernel_datapath": kernel_datapath, "rest_port": REST_INSIDE}
        (self.folder / "plan.json").write_text(json.dumps(plan))
        work, seed = self.folder / "work", self.folder / "seed"
        for folder in (work, *(seed / f"{MOUNTS[1:]}/{name}" for name in ("code/mininet_scenarios", "lower", "state"))):
            folder.mkdir(parents=True)
        binds = [str(CODE), f"{MOUNTS}/code/mininet_scenarios", "ro", order.rootfs, f"{MOUNTS}/lower", "ro"]
        binds += [str(self.folder), f"{MOUNTS}/state", "rw"]
        main = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"]
        main += [f"PYTHONPATH={MOUNTS}/code"]
        main += ["python3", "-B", "-m", "mininet_scenarios.inside.main", str(listener.fileno())]
        self.lab = await asyncio.create_subprocess_exec(
            *["sh", str(CODE / "isolate.sh"), str(self.cgroup), "lab"],
            *["sh", str(CODE / "overlay.sh"), str(work), order.rootfs, "50%", str(seed), *binds, "--"],
            *["python3", "-SE", f"{MOUNTS}/code/mininet_scenarios/inside/init.py", f"lab-{order.name}", *main],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        assert self.lab.stdout is not None
        while line := await self.lab.stdout.readline():
            message = json.loads(line)
            if "error" in message:
                raise LabFailed(message["error"])
            if "ready" in message:
                return
            say(**message)
        raise LabFailed(f"the lab ended with status {await self.lab.wait()}:\n{_tail(self.folder / 'lab.log')}")

    def _host_init(self, name: str) -> int:
        return _first_process(self.cgroup / name / "init")

    async def _watch(self, lifeline: asyncio.StreamReader) -> None:
        """End the lab when standard input ends without a word."""
        if await lifeline.readline() != b"detach\n":
            self.over.set()

    async def run(self) -> None:
        """Wait until the lab is to end: a signal, a request, the owner's death, or its own."""
        assert self.lab is not None
        ended = [asyncio.create_task(self.over.wait()), asyncio.create_task(self.lab.wait())]
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)

    async def down(self) -> None:
        state.mark_stopping(self.order.name)
        if self.controller is not None:
            await self.controller.stop(signal.SIGKILL)
        if self.lab is not None:
            with suppress(ProcessLookupError):
                self.lab.kill()  # and with it, process 1 of the lab and every process in its namespaces
            await self.lab.wait()
        await asyncio.to_thread(state.remove, self.order.name)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request: ``{"do": ...}``; one answer: an object, with ``error`` if it could not be done."""
        answer: dict[str, Any]
        try:
            answer = await self._do(json.loads(await asyncio.wait_for(reader.readline(), 10)))
        except (ControllerFailed, ValueError, KeyError, TimeoutError) as error:
            answer = {"error": f"{error}"}
        with suppress(OSError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
            writer.close()

    async def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.controller is not None
        match request["do"]:
            case "down":
                self.over.set()
            case "status":
                return {"controller": self.controller.pid}
            case "controller-start":
                await self.controller.start()
            case "controller-stop":
                await self.controller.stop(signal.SIGTERM)
            case "controller-kill":
                await self.controller.stop(signal.SIGKILL)
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")
        return {}


def _first_process(cgroup: Path) -> int:
    """Process 1 of the outermost PID namespace among the processes of a cgroup, by the machine's numbers."""
    levels: list[tuple[int, int]] = []
    for pid in cgroups.processes(cgroup):
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if numbers[-1] == "1":
                levels.append((len(numbers), pid))
    if not levels:
        raise LabFailed(f"no process 1 in {cgroup}")
    return min(levels)[1]


def _load_module(name: str) -> bool:
    """Load a kernel module if there is one. Returns whether it is there."""
    with suppress(FileNotFoundError):  # a machine without kmod
        subprocess.run(["modprobe", "--quiet", name], check=False, timeout=30)
    return Path("/sys/module", name).exists()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


async def _lock(name: str) -> IO[str] | None:
    """The lab's lock. A lab that is on its way down is waited for; of one whose owner has just died that shows soon."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while (lock := state.lock(name)) is None:
        if loop.time() - start > (STOP_TIMEOUT if state.is_stopping(name) else NOTICE_TIMEOUT):
            return None
        await asyncio.sleep(0.1)
    return lock


async def supervise(supervisor: Supervisor, lifeline: asyncio.StreamReader) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.over.set)
    try:
        await supervisor.up(lifeline)
        say(ready=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        await supervisor.run()
    except (LabFailed, ControllerFailed) as error:
        say(error=str(error))
    finally:
        await supervisor.down()


async def main() -> None:
    lifeline = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lifeline), sys.stdin)
    if not (line := await lifeline.readline()):
        return  # whoever wanted a lab was killed before it said which
    order = Order(**json.loads(line))
    state.clean_abandoned()
    lock = await _lock(order.name)
    if lock is None:
        say(error=f"lab {order.name!r} is up already; ./coat-lab down --name {order.name} removes it")
        return
    log = os.open(state.directory(order.name) / "lab.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    await supervise(Supervisor(order, lock, rootfs.hold(Path(order.rootfs))), lifeline)


if __name__ == "__main__":
    asyncio.run(main())
