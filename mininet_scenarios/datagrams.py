"""Numbered datagrams at a steady pace (standard library only: it runs in containers).

``datagrams.py listen`` notes the numbers that arrive, in the order in which it reads them, and answers an empty
datagram with what it has noted, a JSON list of runs ``[first, last]`` of consecutive numbers. ``datagrams.py send
ADDRESS RATE`` sends RATE datagrams a second until its standard input closes, then asks for the runs and prints
``{"runs": [[first, last], ...], "sent_at": [...]}``, Unix time of each number.
"""

import json
import select
import socket
import sys
import time

PORT = 7001
SIZE = 200
BUFFER = 4 << 20
"""Bytes of the listener's receive buffer: a replay comes at once."""
QUESTIONS, ANSWER_TIMEOUT = 20, 0.5
TICK = 0.001


def listen() -> None:
    runs: list[list[int]] = []
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        server.bind(("", PORT))
        while True:
            datagram, sender = server.recvfrom(SIZE)
            if not datagram:
                server.sendto(json.dumps(runs).encode(), sender)
                continue
            number = int.from_bytes(datagram[:8], "big")
            if runs and runs[-1][1] == number - 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])


def send(address: str, rate: float) -> dict[str, object]:
    sent_at: list[float] = []
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((address, PORT))
        started = time.monotonic()
        while not select.select([sys.stdin], [], [], TICK)[0]:
            while len(sent_at) < (time.monotonic() - started) * rate:
                client.send(len(sent_at).to_bytes(8, "big").ljust(SIZE, b"."))
                sent_at.append(time.time())
        return {"runs": ask(client), "sent_at": sent_at}


def ask(client: socket.socket) -> object:
    """After all that was sent: datagrams of one flow stay in order here."""
    client.settimeout(ANSWER_TIMEOUT)
    for _ in range(QUESTIONS):
        client.send(b"")
        try:
            return json.loads(client.recv(65536))
        except TimeoutError:
            continue
    raise TimeoutError("the listener does not answer")


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen()
    else:
        print(json.dumps(send(sys.argv[2], float(sys.argv[3]))), flush=True)
