"""What a node says, as lines and answers: bounded, for a node is trusted with its own containers only."""

import math
from collections.abc import Iterator
from typing import Any


class Odd(ValueError):
    """No hook of ours says this."""


class Lines:
    """Puts pieces of a stream together to lines of at most ``limit`` bytes. A byte is copied twice at the most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that have ended, without their ends. Raises Odd when one is too long."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part)
            line = b"".join(self._parts)
            self._parts, self._size = [], 0
            yield line
        if rest:
            self._add(rest)

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise Odd(f"a line is over {self._limit} bytes")
        self._parts.append(part)


def check_answer(answer: Any) -> dict[str, Any]:
    """An answer that has all that is looked at without asking. Raises Odd."""
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise Odd("an answer is an object with ok")
    if not all(_is_time(answer.get(key)) for key in ("started_at", "finished_at")):
        raise Odd("an answer has started_at and finished_at")
    if answer["ok"] and "result" not in answer:
        raise Odd("an answer has a result")
    error = answer.get("error")
    texts = [error.get(key) for key in ("cause", "message", "command", "stderr")] if isinstance(error, dict) else [None]
    if not answer["ok"] and not all(isinstance(text, str) for text in texts):
        raise Odd("an error has cause, message, command and stderr")
    return answer


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
