"""Process 1 of a lab and of each of its hosts: names the host, starts one command, buries the orphans.

    init.py HOSTNAME CMD...

Ends with the command, and the kernel ends everything else in the namespaces then.
"""

import os
import socket
import sys


def main() -> int:
    hostname, *command = sys.argv[1:]
    socket.sethostname(hostname)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.execvp(command[0], command)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
