"""A TCP connection that is used in both directions until it is told to end, every byte checked.

``echo.py serve`` sends back what comes. ``echo.py check ADDRESS RATE`` sends a pattern, RATE bytes a second, compares
what comes back, and ends when the file /tmp/stop is there: ``{"sent": n, "right": m}``. Standard library only: it runs
in containers.
"""

import json
import os
import socket
import sys
import threading
import time

PORT, BLOCK = 7001, 1 << 14
STOP = "/tmp/stop"
SILENCE = 120.0


def block(number: int) -> bytes:
    """The pattern's block: its number over and over, so that one that is lost, doubled or swapped is seen."""
    return number.to_bytes(8, "big") * (BLOCK // 8)


def serve() -> None:
    with socket.create_server(("", PORT)) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(BLOCK):
                    connection.sendall(data)


def check(address: str, rate: int) -> dict[str, int]:
    count = {"sent": 0, "right": 0}
    with socket.create_connection((address, PORT), 10) as connection:
        connection.settimeout(SILENCE)

        def send() -> None:
            started, number = time.monotonic(), 0
            while not os.path.exists(STOP):
                connection.sendall(block(number))
                number += 1
                count["sent"] = number * BLOCK
                time.sleep(max(0.0, started + number * BLOCK / rate - time.monotonic()))
            connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=send, daemon=True).start()
        reader, number = connection.makefile("rb", BLOCK), 0
        while (got := reader.read(BLOCK)) == block(number):
            number += 1
            count["right"] = number * BLOCK
        if got:
            count["right"] += next((i for i, (a, b) in enumerate(zip(got, block(number))) if a != b), len(got))  # noqa: B905
    return count


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        print(json.dumps(check(sys.argv[2], int(sys.argv[3]))))
