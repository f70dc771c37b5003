"""A TCP stream of which every byte is known (standard library only: it runs in containers).

``stream.py serve SIZE RATE`` sends the pattern to whoever connects, at most RATE bytes a second; ``stream.py check
ADDRESS SIZE`` compares it byte by byte and prints ``{"right": n}``, the number of bytes before the first that is wrong
or missing.
"""

import json
import socket
import sys
import time

PORT = 7000
BLOCK = 1 << 16


def block(number: int) -> bytes:
    """The pattern's block: its number, over and over, so that a lost, doubled or swapped block is seen."""
    return number.to_bytes(8, "big") * (BLOCK // 8)


def serve(size: int, rate: int) -> None:
    with socket.create_server(("", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        while True:
            connection, _ = server.accept()
            started = time.monotonic()
            with connection:
                for number in range(-(-size // BLOCK)):
                    connection.sendall(block(number)[: size - number * BLOCK])
                    time.sleep(max(0.0, started + number * BLOCK / rate - time.monotonic()))


def check(address: str, size: int) -> int:
    right = 0
    with socket.create_connection((address, PORT), 10) as connection:
        connection.settimeout(30)
        reader = connection.makefile("rb", BLOCK)
        for number in range(-(-size // BLOCK)):
            wanted = block(number)[: size - number * BLOCK]
            got = reader.read(len(wanted))
            if got != wanted:
                return right + next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), len(got))  # noqa: B905
            right += len(got)
        return right if reader.read(1) == b"" else right - 1


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps({"right": check(sys.argv[2], int(sys.argv[3]))}))
