"""``pass_on.py PORT ADDRESS``: whoever connects to PORT is joined to PORT of ADDRESS, byte for byte both ways.

Standard library only: it runs in containers.
"""

import contextlib
import socket
import sys
import threading

BLOCK = 1 << 14


def pump(source: socket.socket, target: socket.socket) -> None:
    """Until the source has said all; the target is told."""
    with contextlib.suppress(OSError):  # an end that is gone; the other one will be told
        while data := source.recv(BLOCK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def main(port: int, address: str) -> None:
    with socket.create_server(("", port)) as server:
        while True:
            near, _ = server.accept()
            with near, socket.create_connection((address, port), 10) as far:
                far.settimeout(None)
                back = threading.Thread(target=pump, args=(far, near))
                back.start()
                pump(near, far)
                back.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
