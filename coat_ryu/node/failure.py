"""How a verb fails: a machine word, a sentence for a person, and what the command said."""

STDERR_LIMIT = 4000
"""Characters of a command's standard error that travel with a failure: its end, where the reason is."""


def printable(text: str) -> str:
    """For a terminal or a log: a name that somebody else chose has no line breaks and escape sequences any more."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class Failure(Exception):
    """A verb could not do what it was asked.

    ``cause`` is one of ``bad_args``, ``unknown_verb``, ``not_found``, ``conflict``, ``command_failed``, ``timeout``,
    ``transfer_failed``, ``memory_lost``, ``connections_in_flight``, ``fenced``,
    ``other_controller``, ``not_told`` and
    ``internal``, or what CRIU said (``criulog``); ``command`` the argv that failed, if there
    was one.
    """

    def __init__(self, cause: str, message: str, *, command: str = "", stderr: str = "") -> None:
        super().__init__(message)
        self.cause = cause
        self.command = command
        self.stderr = stderr[-STDERR_LIMIT:]

    def as_json(self) -> dict[str, str]:
        return {"cause": self.cause, "message": printable(str(self)), "command": self.command, "stderr": self.stderr}
