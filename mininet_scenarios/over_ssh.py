"""Runs a command on a host over SSH and passes its streams and its exit status through, as ssh(1) does.

    python -m mininet_scenarios.over_ssh LOGIN CMD ...

LOGIN is JSON with the fields of ``coat_ryu.ssh.Login``. When this process ends, by whatever, the command is ended too:
the far end watches whether anybody is there to take its output.
"""

import json
import os
import shlex
import sys
import threading

import paramiko

from coat_ryu.ssh import Login, open_transport

CHUNK = 1 << 15

# Runs at the far end. sshd closes a command's pipes when the connection is lost, and tells it nothing else.
ATTEND = """\
import os, select, subprocess, sys
command = subprocess.Popen(sys.argv[1:])
watch = select.poll()
watch.register(1, 0)
while command.poll() is None:
    if watch.poll(100):
        command.terminate()
        break
status = command.wait()
sys.exit(status if status >= 0 else 128 - status)
"""


def far_command(argv: list[str]) -> str:
    """What the host's shell is given."""
    return shlex.join(["python3", "-c", ATTEND, *argv])


def run(login: Login, argv: list[str]) -> int:
    """The command's exit status. Raises ValueError, SSHException, OSError when there is no way in."""
    transport = open_transport(login)
    try:
        channel = transport.open_session()
        channel.exec_command(far_command(argv))
        threading.Thread(target=_send, args=(channel,), daemon=True).start()
        errors = threading.Thread(target=_copy, args=(channel.recv_stderr, sys.stderr.buffer), daemon=True)
        errors.start()
        _copy(channel.recv, sys.stdout.buffer)
        errors.join()
        return channel.recv_exit_status()
    finally:
        transport.close()


def _send(channel: paramiko.Channel) -> None:
    while data := os.read(sys.stdin.fileno(), CHUNK):
        channel.sendall(data)
    channel.shutdown_write()


def _copy(receive, target) -> None:  # type: ignore[no-untyped-def]  # bound methods of a channel, a binary stream
    while data := receive(CHUNK):
        target.write(data)
        target.flush()


def main() -> None:
    login = Login(**json.loads(sys.argv[1]))
    try:
        sys.exit(run(login, sys.argv[2:]))
    except (ValueError, OSError, paramiko.SSHException) as error:
        print(f"{login.user}@{login.host}: {error}", file=sys.stderr)
        sys.exit(255)


if __name__ == "__main__":
    main()
