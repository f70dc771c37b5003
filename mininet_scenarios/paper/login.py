"""Logs in to hosts, runs ``true`` and logs out, one line of standard input after the other; prints the seconds of each.

A line is JSON with the fields of ``coat_ryu.ssh.Login``. One that fails ends the program.
"""

import json
import sys
import time

from coat_ryu.ssh import Login, open_transport


def seconds(login: Login) -> float:
    """From the first packet to the command's exit status. Raises RuntimeError when it is not 0."""
    began = time.monotonic()
    transport = open_transport(login)
    try:
        channel = transport.open_session()
        channel.exec_command("true")
        if (status := channel.recv_exit_status()) != 0:
            raise RuntimeError(f"{login.host}: true ended with status {status}")
        return time.monotonic() - began
    finally:
        transport.close()


if __name__ == "__main__":
    for line in sys.stdin:
        print(seconds(Login(**json.loads(line))))
